"""Of what an answer shows one image only: of a subject, a study, a video, or of one picture."""

from collections.abc import Callable, Hashable
from typing import Final
from uuid import UUID

from retrieval.index import Neighbour
from retrieval.models import Image
from retrieval.query import Group

DUPLICATE_BITS = 10
"""Perceptual hashes of 64 bits that differ in so few are of one picture."""

Scored = tuple[Neighbour, float]

GROUPED_BY: Final[dict[Group, Callable[[Image], Hashable]]] = {
    Group.SUBJECT: lambda image: image.subject_id,
    Group.STUDY: lambda image: image.study,
    Group.VIDEO: lambda image: image.video_id,
}
"""What images of one group have in common; those that have none stand alone."""


def one_of_each(
    ranked: list[Scored], images: dict[UUID, Image], group: Group, *, most: int
) -> list[Scored]:
    """The nearest of each of the first `most` groups."""
    if group is Group.DUPLICATE:
        return _without_duplicates(ranked, images, most)
    common = GROUPED_BY[group]
    first: dict[Hashable, Scored] = {}
    for neighbour, score in ranked:
        image = images[neighbour.image_id]
        first.setdefault(common(image) or image.pk, (neighbour, score))
    return list(first.values())[:most]


def _without_duplicates(ranked: list[Scored], images: dict[UUID, Image], most: int) -> list[Scored]:
    """Each is held against all that are kept: so many and no more."""
    kept: list[Scored] = []
    shown: list[int] = []
    for neighbour, score in ranked:
        if len(kept) == most:
            break
        bits = images[neighbour.image_id].perceptual_hash
        hashed = None if bits is None else int(bits, 2)
        if hashed is not None:
            if any((hashed ^ other).bit_count() <= DUPLICATE_BITS for other in shown):
                continue
            shown.append(hashed)
        kept.append((neighbour, score))
    return kept
