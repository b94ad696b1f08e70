"""Reviewed boxes as an evaluation set: what the detectors proposed beside what people released."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from retrieval import access, audit
from retrieval.models import (
    BoxKind,
    Kind,
    PrivacyProfile,
    Purpose,
    RemovalReason,
    ReviewBox,
    Source,
    State,
    User,
)
from retrieval.models.grant import Capability

SAME_BOX: Final = 0.35
"""Intersection over union from which a detected and a drawn box mean one thing, as elsewhere."""

RELEASED: Final = (State.DEIDENTIFIED, State.INDEXED)


@dataclass(frozen=True)
class Judged:
    """One kind of box in the released images of a profile that were in review.

    found: detected and needed. missed: drawn by a reviewer only. wrong: detected, and taken off
    because it was nothing of the kind; what may stay all the same was found.
    """

    kind: BoxKind
    images: int
    found: int
    missed: int
    wrong: int

    @property
    def recall(self) -> float | None:
        """In [0, 1]; None where reviewers saw nothing to be found."""
        return _share(self.found, self.missed)

    @property
    def precision(self) -> float | None:
        """In [0, 1]; None where nothing was detected."""
        return _share(self.found, self.wrong)


def reviewed_boxes(profile: PrivacyProfile, *, actor: User, purpose: Purpose) -> list[Judged]:
    """Judge the detectors of `profile` by what reviewers released, in what `actor` may review.

    Images in review are the hard ones: these are no rates of all images. On the log before this
    returns. Raises AuditUnavailable.
    """
    with access.acting_as(actor, purpose):
        reviewed = access.collections_where(actor, purpose, Capability.REVIEW)
        boxes = list(
            ReviewBox.objects.filter(
                collection__in=[c.pk for c in reviewed],
                collection__profile=profile,
                image__state__in=RELEASED,
            )
            .exclude(source=Source.LAST_LOOK)
            .order_by("image_id", "pk")
        )
    audit.record(
        Kind.DETECTORS_JUDGED,
        actor=actor,
        purpose=purpose,
        profile=profile.pk,
        collections=[c.pk for c in reviewed],
        boxes=len(boxes),
    )
    return [_judge(kind, boxes) for kind in BoxKind]


def _judge(kind: BoxKind, boxes: Sequence[ReviewBox]) -> Judged:
    found = missed = wrong = images = 0
    for _image, of_image in groupby(boxes, key=lambda box: box.image_id):
        mine = [box for box in of_image if box.kind == kind]
        images += 1
        detected = [box for box in mine if box.source == Source.DETECTOR]
        drawn = [b for b in mine if b.source == Source.REVIEWER and not b.removed_reason]
        taken_off = [b for b in detected if b.removed_reason not in _RIGHTLY_FOUND]
        redrawn = _pairs(drawn, taken_off)
        found += len(detected) - len(taken_off) + redrawn
        missed += len(drawn) - redrawn
        wrong += len(taken_off) - redrawn
    return Judged(kind, images, found, missed, wrong)


_RIGHTLY_FOUND: Final = ("", RemovalReason.ALLOWED_TEXT)


def _pairs(drawn: Sequence[ReviewBox], taken_off: Sequence[ReviewBox]) -> int:
    """How many boxes were taken off only to be drawn again, better."""
    left, pairs = list(taken_off), 0
    for one in drawn:
        best = max(left, key=lambda other: _iou(one.box, other.box), default=None)
        if best is not None and _iou(one.box, best.box) >= SAME_BOX:
            left.remove(best)
            pairs += 1
    return pairs


def _iou(one: Sequence[int], other: Sequence[int]) -> float:
    (x, y, w, h), (u, v, p, q) = one, other
    across, down = min(x + w, u + p) - max(x, u), min(y + h, v + q) - max(y, v)
    shared = max(0, across) * max(0, down)
    return shared / (w * h + p * q - shared)


def _share(right: int, not_right: int) -> float | None:
    return right / (right + not_right) if right + not_right else None
