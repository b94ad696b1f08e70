"""Boxes that a reviewer draws or takes off. The worker then covers the original anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.utils import timezone

from retrieval import audit, outbox
from retrieval.models import (
    BoxKind,
    Image,
    Kind,
    Purpose,
    RemovalReason,
    ReviewBox,
    Source,
    Stage,
    State,
    User,
)
from retrieval.models.grant import Capability
from retrieval.review.decide import NotDecidable, deciding, require_shown, waits_for_rerun

MAX_CHANGES: Final = 200
"""Boxes that one submission draws or takes off."""


@dataclass(frozen=True)
class Drawn:
    """A box as a reviewer drew it: x, y, w, h in pixels of the upright image, or beyond them."""

    kind: BoxKind
    box: tuple[int, int, int, int]


def change_boxes(
    image_id: UUID,
    *,
    render: int,
    drawn: Sequence[Drawn],
    removed: Mapping[int, RemovalReason],
    actor: User,
    purpose: Purpose,
) -> None:
    """Draw and take off boxes; the image is covered anew and stays in review.

    render: which one was looked at. removed: why, by the box's id. Raises AccessDenied; Outdated
    where another render is or will be shown; NotDecidable; ValueError for boxes that lie beyond
    the image, are not its own or not there any more, and for none at all.
    """
    if not 0 < len(drawn) + len(removed) <= MAX_CHANGES:
        raise ValueError(f"between 1 and {MAX_CHANGES} boxes are changed at once")
    with deciding(image_id, Capability.REVIEW, actor, purpose) as image:
        # Of a black picture nobody knows where to draw; of an unknown one not what to keep.
        if image.state != State.REVIEW or waits_for_rerun(image):
            raise NotDecidable(f"image {image.pk} takes no boxes")
        require_shown(image, render)
        taken_off = _take_off(image, removed, actor)
        ReviewBox.objects.bulk_create(
            ReviewBox(
                image=image,
                collection_id=image.collection_id,
                kind=one.kind,
                box=_inside(one.box, image),
                source=Source.REVIEWER,
                render=render,
                decided_by=actor,
                decided_at=timezone.now(),
            )
            for one in drawn
        )
        outbox.add(image, Stage.COVER)
        audit.record_in_transaction(
            Kind.REVIEW_BOXES_CHANGED,
            actor=actor,
            purpose=purpose,
            image=image.pk,
            subject=image.subject_id,
            render=render,
            drawn=[one.kind.value for one in drawn],
            removed=[box.pk for box in taken_off],
            kinds=[box.kind for box in taken_off],
            reasons=[removed[box.pk].value for box in taken_off],
        )


def _take_off(image: Image, removed: Mapping[int, RemovalReason], actor: User) -> list[ReviewBox]:
    boxes = list(
        ReviewBox.objects.filter(
            image=image,
            pk__in=list(removed),
            removed_reason="",
            source__in=(Source.DETECTOR, Source.REVIEWER),
        )
    )
    if len(boxes) != len(removed):
        raise ValueError("a box to take off is not there")
    for box in boxes:
        box.removed_reason = RemovalReason(removed[box.pk])
        box.decided_by, box.decided_at = actor, timezone.now()
        box.save(update_fields=["removed_reason", "decided_by", "decided_at"])
    return boxes


def _inside(box: tuple[int, int, int, int], image: Image) -> list[int]:
    """The part of a box that lies in the image. Raises ValueError where none does."""
    x, y, w, h = box
    left, top = max(0, x), max(0, y)
    right, bottom = min(image.width or 0, x + w), min(image.height or 0, y + h)
    if right <= left or bottom <= top:
        raise ValueError("a box lies beyond the image")
    return [left, top, right - left, bottom - top]
