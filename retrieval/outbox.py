"""Work as rows. A row is added with the change that makes it due, and removed with its result.

The broker only carries nudges. Attempts are counted before the work, so that a file that kills
its worker is counted too; a lease keeps two workers apart, and its fencing token makes the
slower one's result void.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from retrieval import access, queue
from retrieval.errors import LeaseLost, Reason, ServicesUnavailable
from retrieval.models import Image, Report, Stage, State, Work

log = logging.getLogger("cloister.outbox")

MAX_ATTEMPTS = 3
LEASE = timedelta(minutes=3)
# Of a worker that works. One that hangs does not hold its pictures up for ever.
KEPT_AT_MOST = timedelta(hours=1)
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


def add_anew(image: Image, stage: Stage) -> None:
    """As `add`, where the same may be due or under way already: what that finds is void."""
    begun = Work.objects.filter(image=image, stage=stage)
    if not begun.update(
        attempts=0, fencing_token=F("fencing_token") + 1, lease_until=None, nudged_at=None
    ):
        add(image, stage)


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
    leased = _lease(
        "id = %s AND (lease_until IS NULL OR lease_until < %s)", work_id, timezone.now()
    )
    if not leased:
        return None
    (work,) = leased
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
    waiting = "stage = %s AND attempts = 0 AND lease_until IS NULL"
    return [first, *_lease(waiting, first.stage, most=most - 1)]


def _lease(which: str, *values: object, most: int = 1) -> list[Work]:
    """Count an attempt of each row of `which` that nobody else leases at this moment, and keep
    others off it for a while. Committed, by the one statement that it is."""
    if connection.in_atomic_block:
        raise RuntimeError("an attempt is counted before the work, whatever becomes of that")
    leased = Work.objects.raw(
        # MATERIALIZED: a plan that asked for the rows again would lock more than `most` of them.
        f"""
        WITH due AS MATERIALIZED (
            SELECT id FROM retrieval_work WHERE {which}
            ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        UPDATE retrieval_work work
        SET attempts = attempts + 1, fencing_token = fencing_token + 1, lease_until = %s
        FROM due WHERE work.id = due.id RETURNING work.*
        """,  # noqa: S608 - `which` is one of the two conditions above
        [*values, most, timezone.now() + LEASE],
    )
    return sorted(leased, key=lambda work: work.pk)


@contextmanager
def keeping(*works: Work) -> Iterator[None]:
    """Renew the leases while the work goes on: a batch on a slow processor outlasts one.

    What is given back or taken over meanwhile has another fencing token, and is left alone.
    """
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(works, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()


def _renew(works: Sequence[Work], done: threading.Event) -> None:
    end = time.monotonic() + KEPT_AT_MOST.total_seconds()
    while not done.wait(LEASE.total_seconds() / 3) and time.monotonic() < end:
        try:
            for work in works:
                _own(work).update(lease_until=timezone.now() + LEASE)
        except (DatabaseError, InterfaceError) as error:
            # There is time for another two tries.
            log.warning("leases were not renewed: %s", type(error).__name__)
        finally:
            connection.close()  # this thread's


def _own(work: Work) -> QuerySet[Work]:
    """The row, if it is still leased as `work` says; none where it was done or taken over."""
    return Work.objects.filter(pk=work.pk, fencing_token=work.fencing_token)


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
        ended, _ = _own(work).delete()
        if not ended:
            raise LeaseLost(f"work {work.pk} was taken over")
        yield image


def settle(image: Image, state: State, reason: Reason | None = None) -> None:
    """Note what became of the locked image. Its report is due once the image is found."""
    becomes_found = state is State.INDEXED and image.state != State.INDEXED
    if becomes_found and Report.objects.filter(image=image).exists():
        add_anew(image, Stage.REPORT)
    image.state = state
    image.reason = "" if reason is None else reason
    if state is State.INDEXED:
        image.indexed_at = timezone.now()
    image.save(update_fields=["state", "reason", "indexed_at"])


def release(work: Work) -> None:
    """Give the lease back after a failure: due again after a pause that grows.

    With a new token: nobody renews it, and what this attempt may still bring is void.
    """
    _own(work).update(
        lease_until=timezone.now() + BACKOFF * work.attempts,
        fencing_token=F("fencing_token") + 1,
        nudged_at=None,
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
