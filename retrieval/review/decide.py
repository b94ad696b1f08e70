"""What a person decides about an image the machinery could not finish.

What waits in review is the reviewer's; what the machinery gave up on is the curator's. Each
decision is one transaction: the right, the state, the work that follows and the log's entry.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from retrieval import access, audit, outbox
from retrieval.errors import AccessDenied, CloisterError, Reason
from retrieval.models import Image, Kind, Purpose, ReviewBox, Stage, State, User, Work
from retrieval.models.grant import Capability

NEXT_STAGE: Final = {State.RECEIVED: Stage.DEIDENTIFY, State.DEIDENTIFIED: Stage.ENCODE}
"""What is due for an image in a state that it leaves without a person."""


class NotDecidable(CloisterError):
    """The image is in no state for this decision, or no longer. A retry gives the same answer."""


class Outdated(NotDecidable):
    """What is decided about is not what would be seen now: its covers were or are being redrawn.

    Looking again and deciding anew helps.
    """


class TakenOffByYou(NotDecidable):
    """The actor took a cover off this image: another reviewer releases it."""


def release(image_id: UUID, *, render: int, actor: User, purpose: Purpose) -> None:
    """A reviewer looked at the covered preview and lets it be encoded and found.

    render: which one was looked at; none that came after is released unseen. Raises AccessDenied,
    Outdated, TakenOffByYou, or NotDecidable: where the detector failed nobody knows what is in
    it, and where the profile was changed since, what it would be covered for now.
    """
    with deciding(image_id, Capability.REVIEW, actor, purpose) as image:
        if image.state != State.REVIEW or waits_for_rerun(image):
            raise NotDecidable(f"image {image.pk} cannot be released")
        require_shown(image, render)
        if took_off_a_cover(image, actor):
            raise TakenOffByYou(f"image {image.pk} is released by another reviewer")
        reason = image.reason
        outbox.settle(image, State.DEIDENTIFIED)
        outbox.add(image, Stage.ENCODE)
        _record_decision("released", image, reason, actor, purpose)


def require_shown(image: Image, render: int) -> None:
    """Raise Outdated unless `render` is what a reviewer of this locked image sees now.

    While covers are being redrawn the picture in the store may be either one.
    """
    if image.render != render or is_being_covered(image):
        raise Outdated(f"image {image.pk} is past render {render}")


def took_off_a_cover(image: Image, actor: User) -> bool:
    """Whether one person alone would show what detectors, or a colleague, wanted covered."""
    removed = ReviewBox.objects.filter(image=image).exclude(removed_reason="")
    return removed.filter(decided_by=actor).exists()


def is_being_covered(image: Image) -> bool:
    return Work.objects.filter(image=image, stage=Stage.COVER).exists()


def reject(image_id: UUID, *, actor: User, purpose: Purpose) -> None:
    """A reviewer decides that the image is never to be found.

    Raises AccessDenied or NotDecidable.
    """
    with deciding(image_id, Capability.REVIEW, actor, purpose) as image:
        if image.state != State.REVIEW:
            raise NotDecidable(f"image {image.pk} is not in review")
        reason = image.reason
        outbox.settle(image, State.REJECTED, Reason.REJECTED_BY_REVIEWER)
        _record_decision("rejected", image, reason, actor, purpose)


def retry(image_id: UUID, *, actor: User, purpose: Purpose) -> None:
    """Start again with what was given up, or go on with what is stuck.

    Raises AccessDenied or NotDecidable.
    """
    with deciding(image_id, None, actor, purpose) as image:
        was, reason = image.state, image.reason
        if image.state == State.QUARANTINED or waits_for_rerun(image):
            outbox.settle(image, State.RECEIVED)
        stage = NEXT_STAGE.get(State(image.state))
        if stage is None:
            raise NotDecidable(f"image {image.pk} has nothing to retry")
        # A running worker keeps its lease; a work row without one is due at once.
        if not Work.objects.filter(image=image, stage=stage).update(attempts=0, nudged_at=None):
            outbox.add(image, stage)
        audit.record_in_transaction(
            Kind.WORK_RETRIED,
            actor=actor,
            purpose=purpose,
            image=image.pk,
            was=was,
            reason=reason,
        )


def waits_for_rerun(image: Image) -> bool:
    """Whether no reviewer can tell what is in it, or what was covered: only a new start helps.

    Where the profile is another than then, nobody looked for all that it covers now.
    """
    if image.state != State.REVIEW:
        return False
    unknown = image.reason == Reason.DETECTOR_FAILED or image.render == 0
    return unknown or image.rules_digest != image.collection.profile.rules_digest


@contextmanager
def deciding(
    image_id: UUID, capability: Capability | None, actor: User, purpose: Purpose
) -> Iterator[Image]:
    """The image, locked, in the transaction that decides about it. Refusals are on the log."""
    try:
        with access.acting_as(actor, purpose):
            yield _find_and_lock(image_id, capability, actor, purpose)
    except AccessDenied:
        audit.record(Kind.IMAGE_DENIED, actor=actor, purpose=purpose, image=image_id)
        raise


def _find_and_lock(
    image_id: UUID, capability: Capability | None, actor: User, purpose: Purpose
) -> Image:
    access.find_image(image_id, actor=actor, purpose=purpose)
    # Row-level security locks for those only who may change something here.
    image = Image.objects.select_for_update().filter(pk=image_id).first()
    if image is None:
        raise AccessDenied(f"user {actor.pk} decides about no such image")
    # Asked of the locked row: between two looks, what was given up may have come into review.
    access.require(actor, purpose, capability or _needed_to_retry(image), image.collection_id)
    return image


def _needed_to_retry(image: Image) -> Capability:
    return Capability.REVIEW if image.state == State.REVIEW else Capability.INGEST


def _record_decision(
    decision: str, image: Image, reason: str, actor: User, purpose: Purpose
) -> None:
    """Last in its transaction: the log's head is locked until it ends, and locked by all."""
    audit.record_in_transaction(
        Kind.REVIEW_DECIDED,
        actor=actor,
        purpose=purpose,
        image=image.pk,
        decision=decision,
        reason=reason,
        render=image.render,
    )
