"""What waits for a reviewer, and one image of it with the boxes to judge. Each look is recorded."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db.models import Q, QuerySet

from retrieval import access, audit
from retrieval.errors import AccessDenied
from retrieval.models import Image, Kind, Purpose, ReviewBox, State, User
from retrieval.models.grant import Capability
from retrieval.review.decide import NotDecidable, is_being_covered, took_off_a_cover

SHOWN_AT_ONCE: Final = 60


@dataclass(frozen=True)
class Waiting:
    """The oldest images in review that the actor may decide about, and how many there are."""

    images: list[Image]
    count: int


@dataclass(frozen=True)
class Case:
    """An image in review. `boxes`: those that are covered now, and what the last look saw.

    needs_another: who looks took a cover off, so that another reviewer releases it.
    """

    image: Image
    boxes: list[ReviewBox]
    removed: list[ReviewBox]
    is_being_covered: bool
    needs_another: bool
    previous: UUID | None
    next: UUID | None
    count: int


def waiting(*, actor: User, purpose: Purpose) -> Waiting:
    """The queue, oldest first. It is on the log before this returns.

    Raises AccessDenied, on the log as well, where the actor reviews nothing; AuditUnavailable.
    """
    with access.acting_as(actor, purpose):
        reviewed = access.collections_where(actor, purpose, Capability.REVIEW)
        queue = _queue([c.pk for c in reviewed])
        images, count = list(queue.select_related("collection")[:SHOWN_AT_ONCE]), queue.count()
    if not reviewed:
        audit.record(Kind.IMAGE_DENIED, actor=actor, purpose=purpose, image=None)
        raise AccessDenied(f"user {actor.pk} reviews nothing")
    audit.record(
        Kind.IMAGES_LISTED,
        actor=actor,
        purpose=purpose,
        images=[image.pk for image in images],
        subjects=sorted({i.subject_id for i in images if i.subject_id is not None}),
    )
    return Waiting(images, count)


def look_at(image_id: UUID, *, actor: User, purpose: Purpose) -> Case:
    """One image with its boxes. The look is on the log before this returns.

    Raises AccessDenied, on the log as well; NotDecidable where it is not in review, or no longer;
    AuditUnavailable.
    """
    try:
        with access.acting_as(actor, purpose):
            case = _open(image_id, actor, purpose)
    except AccessDenied:
        audit.record(Kind.IMAGE_DENIED, actor=actor, purpose=purpose, image=image_id)
        raise
    audit.record(
        Kind.IMAGE_VIEWED,
        actor=actor,
        purpose=purpose,
        image=image_id,
        subject=case.image.subject_id,
        form="review",
    )
    return case


def _open(image_id: UUID, actor: User, purpose: Purpose) -> Case:
    image = access.find_image(image_id, actor=actor, purpose=purpose, capability=Capability.REVIEW)
    if image.state != State.REVIEW:
        raise NotDecidable(f"image {image.pk} is not in review")
    reviewed = access.collections_where(actor, purpose, Capability.REVIEW)
    queue = _queue([c.pk for c in reviewed])
    here = Q(received_at=image.received_at)
    later = Q(received_at__gt=image.received_at) | here & Q(pk__gt=image.pk)
    earlier = Q(received_at__lt=image.received_at) | here & Q(pk__lt=image.pk)
    boxes = list(ReviewBox.objects.filter(image=image).select_related("decided_by"))
    return Case(
        image=image,
        boxes=[box for box in boxes if not box.removed_reason],
        removed=[box for box in boxes if box.removed_reason],
        is_being_covered=is_being_covered(image),
        needs_another=took_off_a_cover(image, actor),
        previous=queue.filter(earlier).reverse().values_list("pk", flat=True).first(),
        next=queue.filter(later).values_list("pk", flat=True).first(),
        count=queue.count(),
    )


def _queue(collections: list[int]) -> QuerySet[Image]:
    return Image.objects.filter(state=State.REVIEW, collection__in=collections).order_by(
        "received_at", "pk"
    )
