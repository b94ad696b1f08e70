import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from retrieval import access, outbox, queue
from retrieval.errors import LeaseLost, Reason, ServicesUnavailable
from retrieval.models import Collection, Image, Purpose, Stage, State, Work
from tests import database
from tests.factories import make_collection, make_image, operator

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def broker(services: None) -> Iterator[redis.Redis]:
    connection = redis.Redis.from_url(
        settings.CLOISTER_BROKER_URL.replace("redis+socket://", "unix://")
    )
    connection.flushall()
    yield connection
    connection.flushall()


@pytest.fixture
def image(broker: redis.Redis, db: None) -> Image:
    """An image that is due to be de-identified."""
    received = make_image(make_collection(), state=State.RECEIVED)
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        outbox.add(received, Stage.DEIDENTIFY)
    return received


@pytest.fixture
def work(image: Image) -> Iterator[Work]:
    """That work, as the worker's role sees it."""
    with database.role("worker"):
        yield Work.objects.get(image_id=image.pk)


def state_of(image: Image) -> tuple[str, str]:
    with access.processing(image.collection_id):
        return Image.objects.values_list("state", "reason").get(pk=image.pk)


def test_work_is_nudged_when_it_is_committed(image: Image, broker: redis.Redis) -> None:
    assert broker.llen(Stage.DEIDENTIFY) == 1


def test_a_nudge_carries_an_id_and_nothing_else(image: Image, broker: redis.Redis) -> None:
    message = broker.lrange(Stage.DEIDENTIFY, 0, -1)[0]

    assert str(image.pk).encode() not in message
    assert b"picture.png" not in message


def test_a_dead_broker_loses_no_work(monkeypatch: pytest.MonkeyPatch, broker: redis.Redis) -> None:
    def refuse(*_args: object) -> None:
        raise ServicesUnavailable("the broker takes no nudges")

    received = make_image(make_collection(), state=State.RECEIVED)
    with monkeypatch.context() as dead:
        dead.setattr(queue, "nudge", refuse)
        with access.acting_as(operator(), Purpose.ADMINISTRATION):
            outbox.add(received, Stage.DEIDENTIFY)
    assert broker.llen(Stage.DEIDENTIFY) == 0

    with database.role("worker"):
        Work.objects.update(nudged_at=timezone.now() - timedelta(minutes=1))
        assert outbox.reconcile() == 1
    assert broker.llen(Stage.DEIDENTIFY) == 1


def test_a_wiped_broker_loses_no_work(work: Work, broker: redis.Redis) -> None:
    broker.flushall()
    Work.objects.update(nudged_at=timezone.now() - timedelta(minutes=1))

    assert outbox.reconcile() == 1
    assert broker.llen(Stage.DEIDENTIFY) == 1


def test_a_long_queue_is_not_made_longer(work: Work, broker: redis.Redis) -> None:
    Work.objects.update(nudged_at=timezone.now() - timedelta(minutes=1))

    assert outbox.reconcile() == 0


def test_work_that_is_leased_is_not_claimed_again(work: Work) -> None:
    assert outbox.claim(work.pk) is not None
    assert outbox.claim(work.pk) is None


def test_an_attempt_is_counted_before_the_work(work: Work) -> None:
    outbox.claim(work.pk)

    assert Work.objects.get(pk=work.pk).attempts == 1


def test_three_strikes_quarantine_the_image(work: Work, image: Image) -> None:
    for _ in range(3):
        assert outbox.claim(work.pk) is not None
        Work.objects.update(lease_until=timezone.now() - timedelta(seconds=1))

    assert outbox.claim(work.pk) is None
    assert state_of(image) == (State.QUARANTINED, Reason.THREE_STRIKES)
    assert not Work.objects.exists()


def test_a_worker_that_lost_its_lease_writes_nothing(work: Work, image: Image) -> None:
    slow = outbox.claim(work.pk)
    assert slow is not None
    Work.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert outbox.claim(work.pk) is not None

    with pytest.raises(LeaseLost), outbox.settling(slow) as locked:
        outbox.settle(locked, State.DEIDENTIFIED)
    assert state_of(image) == (State.RECEIVED, "")


def test_failed_work_is_due_again_after_a_pause(work: Work, broker: redis.Redis) -> None:
    claimed = outbox.claim(work.pk)
    assert claimed is not None
    broker.flushall()
    outbox.release(claimed)

    assert outbox.claim(work.pk) is None
    Work.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert outbox.reconcile() == 1
    assert outbox.claim(work.pk) is not None


def test_work_outside_the_transaction_that_makes_it_due_is_refused() -> None:
    with pytest.raises(RuntimeError):
        outbox.add(Image(collection=Collection(pk=1)), Stage.ENCODE)


def due_together(count: int) -> list[int]:
    """So many pieces of work of one stage, in one collection."""
    collection = make_collection(name="together")
    images = [make_image(collection, state=State.DEIDENTIFIED) for _ in range(count)]
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        for image in images:
            outbox.add(image, Stage.ENCODE)
    with database.role("worker"):
        due = Work.objects.filter(stage=Stage.ENCODE).order_by("pk")
        return list(due.values_list("pk", flat=True))


def test_what_waits_is_leased_together_and_each_attempt_is_counted(broker: redis.Redis) -> None:
    first, *rest = due_together(4)
    with database.role("worker"):
        leased_elsewhere = outbox.claim(rest[0])
        together = outbox.claim_together(first, most=2)

        assert [work.pk for work in together] == [first, rest[1]]
        assert all(work.attempts == work.fencing_token == 1 for work in together)
        assert leased_elsewhere is not None
        assert outbox.claim_together(rest[1], most=2) == []
        assert [work.pk for work in outbox.claim_together(rest[2], most=9)] == [rest[2]]


def test_what_was_tried_before_takes_no_neighbour_s_attempt_with_it(broker: redis.Redis) -> None:
    killer, *rest = due_together(3)
    with database.role("worker"):
        together = outbox.claim_together(killer, most=3)
        Work.objects.update(lease_until=timezone.now() - timedelta(seconds=1))  # its worker died

        assert len(together) == 3
        for work_id in (killer, *rest):
            assert [work.pk for work in outbox.claim_together(work_id, most=3)] == [work_id]


def test_an_attempt_that_fails_gives_back_what_is_not_done(broker: redis.Redis) -> None:
    done, left = due_together(2)
    with database.role("worker"):
        works = outbox.claim_together(done, most=2)
        with outbox.attempting(*works):
            with outbox.settling(works[0]):
                pass
            raise ZeroDivisionError

        kept = Work.objects.get(stage=Stage.ENCODE)
        assert kept.pk == left
        assert kept.lease_until is not None
        assert kept.lease_until < timezone.now() + outbox.BACKOFF * 2


def test_an_attempt_inside_a_transaction_is_refused(work: Work) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        outbox.claim(work.pk)


def test_what_is_given_back_is_no_longer_kept_and_its_result_is_void(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LEASE", timedelta(seconds=0.06))
    claimed = outbox.claim(work.pk)
    assert claimed is not None
    with outbox.keeping(claimed):
        outbox.release(claimed)
        given_back = Work.objects.get(pk=work.pk).lease_until
        time.sleep(0.2)

    assert Work.objects.get(pk=work.pk).lease_until == given_back
    with pytest.raises(LeaseLost), outbox.settling(claimed):
        pass


def test_a_worker_that_hangs_does_not_keep_its_work_for_ever(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LEASE", timedelta(seconds=0.06))
    monkeypatch.setattr(outbox, "KEPT_AT_MOST", timedelta(0))
    claimed = outbox.claim(work.pk)
    assert claimed is not None
    with outbox.keeping(claimed):
        time.sleep(0.2)
        taken_over = outbox.claim(work.pk)

    assert taken_over is not None
    assert taken_over.fencing_token > claimed.fencing_token
