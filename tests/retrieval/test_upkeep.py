"""What keeps the index: its counts, when it is built anew, and what it is checked against."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connection, transaction

from retrieval import access, index, upkeep
from retrieval.errors import SearchTooSlow
from retrieval.models import Collection, EncoderVersion, Image, IndexPart, Purpose
from retrieval.models.image import Region
from tests import database
from tests.factories import grant, make_collection, make_encoder, make_images, make_user

pytestmark = pytest.mark.usefixtures("db")

ROWS = upkeep.INDEXED_FROM_ROWS


@pytest.fixture
def live(db: None) -> EncoderVersion:
    return make_encoder(dimensions=8)


@pytest.fixture
def images(live: EncoderVersion) -> list[Image]:
    return make_images(make_collection(), np.random.default_rng(0).normal(size=(ROWS, 8)).tolist())


@pytest.fixture
def collection(images: list[Image]) -> Iterator[Collection]:
    """Just enough rows to be indexed; from here on as the worker's role."""
    with database.role("worker"):
        yield images[0].collection


def part_of(collection: Collection, live: EncoderVersion) -> IndexPart:
    part = upkeep.find_part(collection.pk, live)
    assert part is not None
    return part


def test_an_index_is_built_when_there_is_a_use_for_it(
    collection: Collection, live: EncoderVersion
) -> None:
    assert not upkeep.has_index(collection.pk, live)

    assert upkeep.care().built == [(collection.pk, live.pk)]
    assert upkeep.has_index(collection.pk, live)
    assert upkeep.care() == upkeep.Cared()


def test_an_encoder_in_the_shadow_is_indexed_when_it_is_switched_to(
    collection: Collection, live: EncoderVersion, images: list[Image]
) -> None:
    shadow = make_encoder(dimensions=4, name="shadow")
    vectors = np.random.default_rng(1).normal(size=(ROWS, 4)).astype(np.float32)
    with access.processing(collection.pk):
        index.store_all(collection.pk, [i.pk for i in images], vectors, encoder=shadow)
    upkeep.care()
    assert not upkeep.has_index(collection.pk, shadow)

    assert upkeep.build_missing(shadow) == 1
    assert upkeep.has_index(collection.pk, shadow)


def test_rows_are_counted_however_they_come_and_go(
    collection: Collection,
    live: EncoderVersion,
    images: list[Image],
    superuser: psycopg.Connection[tuple[object, ...]],
) -> None:
    part = part_of(collection, live)
    assert (part.rows, part.images, part.removed) == (ROWS, ROWS, 0)

    with access.processing(collection.pk):
        vectors = np.eye(8, dtype=np.float32)
        parts = [(Region(0, 0, 1, 1), vectors[1]), (Region(1, 1, 1, 1), vectors[2])]
        index.store(images[0], vectors[0], encoder=live, parts=parts)
        index.store(images[0], vectors[0], encoder=live, parts=parts[:1])
    part = part_of(collection, live)
    assert (part.rows, part.images, part.removed) == (ROWS + 1, ROWS, 4)

    superuser.execute(
        "DELETE FROM retrieval_image WHERE id = ANY (%s)", [[i.pk for i in images[:3]]]
    )
    part = part_of(collection, live)
    assert (part.rows, part.images, part.removed) == (ROWS - 3, ROWS - 3, 8)


def test_a_percent_of_dead_vectors_has_the_index_built_anew(
    collection: Collection,
    live: EncoderVersion,
    images: list[Image],
    superuser: psycopg.Connection[tuple[object, ...]],
) -> None:
    upkeep.care()
    gone = [i.pk for i in images[: ROWS // 100]]
    superuser.execute("DELETE FROM retrieval_image WHERE id = ANY (%s)", [gone[:-1]])
    assert upkeep.care().rebuilt == []

    superuser.execute("DELETE FROM retrieval_image WHERE id = ANY (%s)", [gone[-1:]])
    assert upkeep.care().rebuilt == [(collection.pk, live.pk)]
    assert part_of(collection, live).removed == 0
    assert upkeep.has_index(collection.pk, live)


def test_recall_is_measured_against_an_exact_scan_and_noted(
    collection: Collection, live: EncoderVersion
) -> None:
    upkeep.care()

    part = part_of(collection, live)
    assert part.recall is not None
    assert part.recall >= upkeep.LEAST_RECALL
    assert part.checked_at is not None


def test_low_recall_is_answered_by_looking_deeper_and_by_an_alert(
    collection: Collection, live: EncoderVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "measure_recall", lambda *_args: 0.5)

    assert upkeep.care().low == [(collection.pk, live.pk)]
    assert part_of(collection, live).ef_search == upkeep.DEEPEST_EF_SEARCH
    with access.processing(collection.pk):
        assert index.ef_search_of([collection.pk], live) == upkeep.DEEPEST_EF_SEARCH


def test_one_collection_that_cannot_be_checked_holds_up_no_other(
    images: list[Image], live: EncoderVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(
        other := make_collection(), np.random.default_rng(1).normal(size=(ROWS, 8)).tolist()
    )

    def too_slow(*args: object) -> float:
        if args[0] == images[0].collection_id:
            raise SearchTooSlow("in time")
        return 1.0

    monkeypatch.setattr(upkeep, "measure_recall", too_slow)
    with database.role("worker"):
        cared = upkeep.care()
        assert part_of(other, live).recall == 1.0
    assert cared.failed == [(images[0].collection_id, live.pk)]
    assert (other.pk, live.pk) in cared.built


def test_recall_of_what_is_emptied_while_it_is_measured_is_no_error(
    live: EncoderVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, emptied = make_collection(), make_collection()
    make_images(emptied, [[1.0] * 8])
    monkeypatch.setattr(index, "nearest", lambda *_args, **_more: [])

    with database.role("worker"):
        assert upkeep.measure_recall(empty.pk, live) == 1.0
        assert upkeep.measure_recall(emptied.pk, live) == 1.0


def test_an_index_whose_vectors_are_all_gone_is_left_alone(
    collection: Collection,
    live: EncoderVersion,
    superuser: psycopg.Connection[tuple[object, ...]],
) -> None:
    upkeep.care()
    superuser.execute("DELETE FROM retrieval_embedding")

    assert upkeep.care() == upkeep.Cared()


def test_a_partition_is_emptied_at_once(collection: Collection, live: EncoderVersion) -> None:
    upkeep.care()

    started = time.monotonic()
    upkeep.empty_partition(collection.pk)

    assert time.monotonic() - started < 1
    assert upkeep.find_part(collection.pk, live) is None


CARES = ["build_index", "drop_index", "note_rebuilt", "empty_partition", "drop_broken_indexes"]
ARGUMENTS = {"build_index": 2, "drop_index": 2, "note_rebuilt": 3}


def call(function: str, *arguments: int) -> None:
    taken = arguments[: ARGUMENTS.get(function, 1)]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT cloister_{function}({', '.join(['%s'] * len(taken))})", taken)


@pytest.mark.parametrize("function", CARES)
def test_a_worker_cares_only_for_the_collection_it_processes(
    collection: Collection, live: EncoderVersion, function: str
) -> None:
    with access.processing(collection.pk + 1):
        with pytest.raises(ProgrammingError, match="another collection"):
            call(function, collection.pk, live.pk, 0)
        transaction.set_rollback(True)


@pytest.mark.parametrize("function", CARES)
def test_the_web_side_cares_for_no_index(images: list[Image], function: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        call(function, images[0].collection_id, 1, 0)


def test_how_much_there_is_is_told_to_those_who_may_search_it(images: list[Image]) -> None:
    mine, reader = make_collection(), make_user()
    make_images(mine, [[1.0] * 8])
    grant(reader, mine)

    assert IndexPart.objects.count() == 0
    with access.acting_as(reader, Purpose.TREATMENT):
        assert [part.collection_id for part in IndexPart.objects.all()] == [mine.pk]


def test_a_round_of_upkeep_writes_metrics_by_numbers_only(
    collection: Collection, live: EncoderVersion, var: Path
) -> None:
    out = io.StringIO()
    call_command("maintain", once=True, json=True, stdout=out)

    assert json.loads(out.getvalue())["built"] == [[collection.pk, live.pk]]
    metrics = (var / "metrics" / "cloister.prom").read_text(encoding="utf-8")
    labels = f'{{collection="{collection.pk}",encoder="{live.pk}"}}'
    assert f"cloister_index_rows{labels} {ROWS:.1f}" in metrics
    assert f"cloister_index_recall{labels} " in metrics
    assert f"cloister_index_checked_timestamp_seconds{labels} " in metrics
    assert collection.name not in metrics
    assert (var / "metrics").stat().st_mode & 0o077 == 0


def test_what_answers_no_queries_has_no_recall_to_be_alarmed_by(
    collection: Collection, live: EncoderVersion, images: list[Image], var: Path
) -> None:
    upkeep.care()
    newer = make_encoder(name="newer", dimensions=8)
    with access.processing(collection.pk):
        index.store_all(
            collection.pk,
            [image.pk for image in images],
            np.eye(8, dtype=np.float32)[np.arange(len(images)) % 8],
            encoder=newer,
        )
    index.switch(newer)

    call_command("maintain", once=True, stdout=io.StringIO())
    metrics = (var / "metrics" / "cloister.prom").read_text(encoding="utf-8")
    labels = f'{{collection="{collection.pk}",encoder="{live.pk}"}}'
    assert f"cloister_index_rows{labels}" in metrics
    assert f"cloister_index_recall{labels}" not in metrics

    index.retire(live)
    call_command("maintain", once=True, stdout=io.StringIO())
    assert labels not in (var / "metrics" / "cloister.prom").read_text(encoding="utf-8")
