"""Work as rows. A row is added with the change that makes it due, and removed with its result.

The broker only carries nudges. Attempts are counted before the work, so that a file that kills
its worker is counted too; a lease keeps two workers apart, and its fencing token makes the
slower one's result void.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from retrieval import access, queue
from retrieval.errors import LeaseLost, Reason, ServicesUnavailable
from retrieval.models import Image, Stage, State, Work

log = logging.getLogger("cloister.outbox")

MAX_ATTEMPTS = 3
LEASE = timedelta(minutes=3)
BACKOFF = timedelta(seconds=2)
# Longer than any nudge takes to be picked up by an idle worker.
NUDGE_AGAIN_AFTER = timedelta(seconds=10)


def add(image: Image, stage: Stage) -> None:
    """Make work due, inside the transaction of the change that asks for it."""
    if not connection.in_atomic_block:
        raise RuntimeError("work is added in the transaction that makes it due")
    work = Work.objects.create(
        image=image, collection_id=image.collection_id, stage=stage, nudged_at=timezone.now()
    )
    transaction.on_commit(partial(_nudge, work))


def _nudge(work: Work) -> None:
    try:
        queue.nudge(work.stage, work.pk)
    except ServicesUnavailable:
        # The row is committed; `reconcile` sends the nudge once the broker is back.
        log.warning("work %s waits for the broker", work.pk)


def claim(work_id: int) -> Work | None:
    """Lease a piece of work and count the attempt. None: done, leased elsewhere, or given up.

    The fourth claim does not happen: the image goes to quarantine and its neighbours go on.
    """
    now = timezone.now()
    with transaction.atomic(durable=True):
        work = (
            Work.objects.select_for_update(skip_locked=True)
            .filter(Q(lease_until__isnull=True) | Q(lease_until__lt=now), pk=work_id)
            .first()
        )
        if work is None:
            return None
        _lease([work])
    if work.attempts > MAX_ATTEMPTS:
        with settling(work) as image:
            # Indexed, only a further encoder gave up; rejected, nothing was due any more.
            if image.state not in (State.INDEXED, State.REJECTED):
                settle(image, State.QUARANTINED, Reason.THREE_STRIKES)
        log.error("work %s on image %s failed three times", work.pk, work.image_id)
        return None
    return work


def claim_together(work_id: int, *, most: int) -> list[Work]:
    """Lease a piece of work and, with it, others of its stage that nobody has tried yet.

    At most `most` in all; none where `claim` gives none. What was tried before goes alone: if it
    takes its worker down, it takes no neighbour's attempt with it.
    """
    first = claim(work_id)
    if first is None:
        return []
    if first.attempts > 1:
        return [first]
    with transaction.atomic(durable=True):
        waiting = Work.objects.select_for_update(skip_locked=True).filter(
            stage=first.stage, attempts=0, lease_until__isnull=True
        )
        others = list(waiting.order_by("pk")[: most - 1])
        _lease(others)
    return [first, *others]


def _lease(works: Sequence[Work]) -> None:
    """Count an attempt of each of these locked rows, and keep others off it for a while."""
    for work in works:
        work.attempts += 1
        work.fencing_token += 1
        work.lease_until = timezone.now() + LEASE
    Work.objects.bulk_update(works, ["attempts", "fencing_token", "lease_until"])


@contextmanager
def attempting(*works: Work) -> Iterator[None]:
    """Give the leases back where an attempt fails: the rows say what is still due."""
    try:
        yield
    except LeaseLost:
        for work in works:
            log.warning("work %s was taken over; its result here is void", work.pk)
    except Exception:
        for work in works:
            release(work)
            log.exception("work %s on image %s failed", work.pk, work.image_id)


@contextmanager
def settling(work: Work) -> Iterator[Image]:
    """The transaction in which a result is written: the image, locked, and the work row's end.

    Raises LeaseLost, and rolls everything back, where another worker holds the lease by now.
    """
    with access.processing(work.collection_id):
        # The image first, as everybody who decides about one does: no two wait for each other.
        # No key: tags that are set anew meanwhile refer to the image, and this waits for them.
        image = Image.objects.select_for_update(no_key=True).get(pk=work.image_id)
        ended, _ = Work.objects.filter(pk=work.pk, fencing_token=work.fencing_token).delete()
        if not ended:
            raise LeaseLost(f"work {work.pk} was taken over")
        yield image


def settle(image: Image, state: State, reason: Reason | None = None) -> None:
    image.state = state
    image.reason = "" if reason is None else reason
    if state is State.INDEXED:
        image.indexed_at = timezone.now()
    image.save(update_fields=["state", "reason", "indexed_at"])


def release(work: Work) -> None:
    """Give the lease back after a failure: due again after a pause that grows."""
    Work.objects.filter(pk=work.pk, fencing_token=work.fencing_token).update(
        lease_until=timezone.now() + BACKOFF * work.attempts, nudged_at=None
    )


def reconcile() -> int:
    """Nudge what is due and was not picked up: lost nudges, lapsed leases. Returns how many.

    Only where the stage's queue is empty: a long queue is no loss, and nudging it again would
    make it longer.
    """
    now = timezone.now()
    sent = 0
    for stage in Stage:
        if not queue.is_idle(stage):
            continue
        due = Work.objects.filter(
            Q(lease_until__isnull=True) | Q(lease_until__lt=now),
            Q(nudged_at__isnull=True) | Q(nudged_at__lt=now - NUDGE_AGAIN_AFTER),
            stage=stage,
        ).order_by(F("nudged_at").asc(nulls_first=True), "pk")
        for work in due[:1000]:
            queue.nudge(work.stage, work.pk)
            Work.objects.filter(pk=work.pk).update(nudged_at=now)
            sent += 1
    return sent
