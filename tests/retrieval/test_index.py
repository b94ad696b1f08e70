import threading
import time
from collections.abc import Iterator
from datetime import date, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pgvector import HalfVector

from retrieval import access, index, upkeep
from retrieval.errors import EncoderUnavailable, ModelRefused, NotDeidentified, SearchTooSlow
from retrieval.index import Filter, Metric, Path, Route
from retrieval.models import Collection, Embedding, EncoderVersion, Image, Purpose, State
from retrieval.models.image import Region
from tests import database
from tests.factories import (
    grant,
    make_collection,
    make_encoder,
    make_image,
    make_images,
    make_user,
)

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def live(db: None) -> EncoderVersion:
    return make_encoder(name="live")


@pytest.fixture
def image(live: EncoderVersion) -> Image:
    return make_image(make_collection(), [1, 0, 0])


@pytest.fixture
def shadow(image: Image) -> Iterator[EncoderVersion]:
    """A second encoder, of another size, that has seen nothing yet; as the worker's role."""
    second = make_encoder(name="shadow", dimensions=5)
    with database.role("worker"):
        yield second


def build_index(collection: Collection) -> None:
    with database.role("worker"):
        upkeep.build_index(collection.pk, index.live_encoder())


def fill(shadow: EncoderVersion, image: Image) -> None:
    with access.processing(image.collection_id):
        index.store(image, np.eye(5, dtype=np.float32)[0], encoder=shadow)


def test_the_first_encoder_is_live_and_the_second_waits(shadow: EncoderVersion) -> None:
    assert index.live_encoder().name == "live"
    assert not shadow.live


def test_an_encoder_that_has_not_seen_every_image_does_not_go_live(
    shadow: EncoderVersion,
) -> None:
    with pytest.raises(ModelRefused, match="1 indexed images"):
        index.switch(shadow)

    assert index.live_encoder().name == "live"


def test_a_filled_encoder_goes_live_and_back(shadow: EncoderVersion, image: Image) -> None:
    fill(shadow, image)

    index.switch(shadow)
    assert index.live_encoder() == shadow
    index.switch(EncoderVersion.objects.get(name="live"))
    assert index.live_encoder().name == "live"


def test_a_name_belongs_to_one_set_of_weights(live: EncoderVersion) -> None:
    with pytest.raises(ModelRefused):
        index.register_encoder(name="live", digest="f" * 64, dimensions=3, licence="none")
    again = partial(
        index.register_encoder,
        name="live",
        digest=live.digest,
        dimensions=live.dimensions,
        licence=live.licence,
    )
    assert again() == live
    with pytest.raises(ModelRefused, match="another folder"):
        again(source="/elsewhere")


def test_beyond_the_exact_scan_the_hnsw_index_answers_with_every_row_asked_for(
    live: EncoderVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.route, "EXACT_SCAN_ROWS", 10)
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    angles = np.linspace(0, 1, 300)
    make_images(mine, [[np.cos(a), np.sin(a), 0] for a in angles])
    build_index(mine)

    with (
        access.acting_as(reader, Purpose.TREATMENT),
        CaptureQueriesContext(connection) as captured,
        connection.cursor() as cursor,
    ):
        found = index.nearest(
            np.array([1, 0, 0], np.float32), within=[mine.pk], encoder=live, limit=250
        )
        (query,) = [q["sql"] for q in captured if "<=>" in q["sql"]]
        # So few rows would be sorted; thousands are not.
        cursor.execute("SET LOCAL enable_sort = off")
        plan = database.plan_of(query)

    assert f"retrieval_embedding_c{mine.pk}_e{live.pk}" in plan
    assert len(found) == 250
    distances = [n.distance for n in found]
    assert distances == sorted(distances)


def search_as_reader(collection: Collection, vector: list[float], **options: Any) -> list[Image]:
    """The images found for one who may search the collection."""
    reader = make_user()
    grant(reader, collection)
    with access.acting_as(reader, Purpose.TREATMENT):
        found = index.nearest(
            np.array(vector, np.float32),
            within=[collection.pk],
            encoder=index.live_encoder(),
            **options,
        )
        return [Image.objects.get(pk=n.image_id) for n in found]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"modality": "CT"}, Filter(modalities=("CT", "MR"))),
        ({"media_type": "image/webp"}, Filter(media_types=("image/webp",))),
        ({"tags": ["dog", "beach"]}, Filter(tags=("beach",))),
        ({"taken_on": date(2020, 5, 1)}, Filter(taken_from=date(2020, 5, 1))),
        ({"taken_on": date(2020, 5, 1)}, Filter(taken_until=date(2020, 5, 1))),
    ],
    ids=["modality", "type", "tag", "from", "until"],
)
def test_a_filter_is_inside_the_vector_query(
    live: EncoderVersion, fields: dict[str, Any], where: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.route, "EXACT_SCAN_ROWS", 10)
    mine = make_collection()
    make_images(mine, [[1, a / 100, 0] for a in range(40)])
    (far,) = make_images(mine, [[-1, 0, 0]], **fields)
    build_index(mine)

    assert search_as_reader(mine, [1, 0, 0], limit=5, where=where) == [far]


def test_days_of_receipt_are_inclusive(live: EncoderVersion) -> None:
    mine = make_collection()
    image = make_image(mine, [1, 0, 0])
    day = image.received_at.date()

    for where, found in (
        (Filter(received_from=day, received_until=day), [image]),
        (Filter(received_until=day - timedelta(days=1)), []),
        (Filter(received_from=day + timedelta(days=1)), []),
    ):
        assert search_as_reader(mine, [1, 0, 0], limit=5, where=where) == found


def test_a_filter_that_leaves_less_than_the_index_looks_at_still_fills_the_answer(
    live: EncoderVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.route, "EXACT_SCAN_ROWS", 10)
    mine = make_collection()
    make_images(mine, [[1, a / 1000, 0] for a in range(400)])
    far = make_images(mine, [[-1, a / 10, 0] for a in range(12)], modality="CT")
    build_index(mine)
    reader = make_user()
    grant(reader, mine)

    with access.acting_as(reader, Purpose.TREATMENT), connection.cursor() as cursor:
        cursor.execute("SET LOCAL hnsw.max_scan_tuples = 50")
        found = index.nearest(
            np.array([1, 0, 0], np.float32),
            within=[mine.pk],
            encoder=live,
            limit=12,
            where=Filter(modalities=("CT",)),
        )

    assert {n.image_id for n in found} == {image.pk for image in far}


def give_parts(image: Image, *, live: EncoderVersion, count: int = 8) -> None:
    with database.role("worker"), access.processing(image.collection_id):
        Embedding.objects.bulk_create(
            Embedding(
                collection_id=image.collection_id,
                image_id=image.pk,
                encoder_id=live.pk,
                region=region,
                vector=HalfVector([1, 0.01 * region, 0]),
            )
            for region in range(1, count + 1)
        )


def test_an_image_of_many_regions_is_found_once_and_takes_nobody_s_place(
    live: EncoderVersion,
) -> None:
    mine = make_collection()
    near, other = make_images(mine, [[1, 0, 0], [0, 1, 0]])
    give_parts(near, live=live)

    assert search_as_reader(mine, [1, 0, 0], limit=2) == [near, other]


@pytest.mark.parametrize("route", [Path.EXACT, Path.INDEX])
def test_images_with_parts_are_found_by_one_scan(
    live: EncoderVersion, route: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.route, "EXACT_SCAN_ROWS", 10 if route is Path.INDEX else 2000)
    mine, reader = make_collection(), make_user()
    grant(reader, mine)
    images = make_images(mine, [[1, 0.001 * n, 0] for n in range(12)])
    for image in images:
        give_parts(image, live=live, count=4)
    build_index(mine)

    with (
        access.acting_as(reader, Purpose.TREATMENT),
        CaptureQueriesContext(connection) as captured,
    ):
        found = index.nearest(
            np.array([1, 0, 0], np.float32), within=[mine.pk], encoder=live, limit=12
        )

    assert {n.image_id for n in found} == {image.pk for image in images}
    assert sum("<=>" in query["sql"] for query in captured) == 1


def test_a_part_that_is_nearest_is_found_with_its_box(live: EncoderVersion) -> None:
    mine = make_collection()
    image, other = make_images(mine, [[0, 1, 0], [0.6, 0.8, 0]])
    parts = [(Region(1, 2, 3, 4), np.eye(3)[2]), (Region(5, 6, 7, 8), np.eye(3)[0])]
    reader = make_user()
    grant(reader, mine)

    def found() -> list[tuple[UUID, Region | None]]:
        with access.acting_as(reader, Purpose.TREATMENT):
            near = index.nearest(
                np.eye(3, dtype=np.float32)[0], within=[mine.pk], encoder=live, limit=2
            )
        return [(n.image_id, n.box) for n in near]

    with database.role("worker"), access.processing(mine.pk):
        index.store(image, np.eye(3)[1], encoder=live, parts=parts)
        index.store(image, np.eye(3)[1], encoder=live, parts=parts)
    with_parts = found()
    with database.role("worker"), access.processing(mine.pk):
        index.store(image, np.eye(3)[1], encoder=live)

    assert with_parts == [(image.pk, Region(5, 6, 7, 8)), (other.pk, None)]
    assert found() == [(other.pk, None), (image.pk, None)]


@pytest.mark.parametrize("path", [Path.INDEX, Path.BROAD])
def test_dead_rows_and_parts_leave_nobody_out(
    live: EncoderVersion, path: Path, superuser: psycopg.Connection[tuple[object, ...]]
) -> None:
    mine, reader = make_collection(), make_user()
    grant(reader, mine)
    images = make_images(mine, [[1, 0.001 * n, 0] for n in range(40)])
    give_parts(images[0], live=live, count=30)
    build_index(mine)
    gone = [image.pk for image in images[1:21]]
    superuser.execute("DELETE FROM retrieval_image WHERE id = ANY (%s)", [gone])

    with access.acting_as(reader, Purpose.TREATMENT):
        found = index.nearest(
            np.array([1, 0, 0], np.float32),
            within=[mine.pk],
            encoder=live,
            limit=20,
            route=Route(path, 10),
        )

    assert {n.image_id for n in found} == {i.pk for i in (images[0], *images[21:])}


@pytest.mark.parametrize("metric", list(Metric))
def test_every_metric_says_its_own_distance(live: EncoderVersion, metric: Metric) -> None:
    mine = make_collection()
    make_image(mine, [0.6, 0.8, 0])
    reader = make_user()
    grant(reader, mine)

    with access.acting_as(reader, Purpose.TREATMENT):
        (found,) = index.nearest(
            np.array([1, 0, 0], np.float32),
            within=[mine.pk],
            encoder=live,
            limit=1,
            metric=metric,
        )

    expected = {
        Metric.COSINE: 0.4,
        Metric.EUCLIDEAN: np.sqrt(0.8),
        Metric.INNER_PRODUCT: -0.6,
        Metric.MANHATTAN: 1.2,
    }
    assert found.distance == pytest.approx(expected[metric], abs=1e-3)


ROUTES = {
    "exact": Route(Path.EXACT),
    "index": Route(Path.INDEX),
    "broad": Route(Path.BROAD),
    "chosen": None,
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize(
    "where", [Filter(), Filter(media_types=("image/png",))], ids=["all", "png"]
)
def test_no_plan_touches_a_partition_that_is_not_permitted(
    live: EncoderVersion, route: Route | None, where: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.route, "EXACT_SCAN_ROWS", 10)
    reader, foreign = make_user(), make_collection()
    permitted = [make_collection() for _ in range(3)]
    for number, collection in enumerate([foreign, *permitted]):
        make_images(collection, [[1, number, a / 100] for a in range(20)])
        build_index(collection)
    for collection in permitted:
        grant(reader, collection)

    with (
        access.acting_as(reader, Purpose.TREATMENT),
        CaptureQueriesContext(connection) as captured,
    ):
        found = index.nearest(
            np.array([1, 0, 0], np.float32),
            within=[c.pk for c in permitted],
            encoder=live,
            limit=30,
            route=route,
            where=where,
        )
        index.background(
            np.array([1, 0, 0], np.float32),
            beside=found[0],
            within=[c.pk for c in permitted],
            encoder=live,
        )
        plans = [database.plan_of(q["sql"]) for q in list(captured) if "<=>" in q["sql"]]

    assert len(found) == 30
    assert plans
    for plan in plans:
        assert f"retrieval_embedding_c{foreign.pk}" not in plan
        assert f"retrieval_embedding_c{permitted[0].pk}" in plan


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_many_partitions_answer_as_an_exact_scan_does(
    live: EncoderVersion, route: Route | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.route, "EXACT_SCAN_ROWS", 10)
    monkeypatch.setattr(index.route, "FEW_PARTITIONS", 2)
    monkeypatch.setattr(index.scan, "FEW_PARTITIONS", 2)
    reader, rng = make_user(), np.random.default_rng(0)
    permitted = [make_collection() for _ in range(5)]
    for collection in permitted:
        grant(reader, collection)
        make_images(collection, rng.normal(size=(60, 3)).tolist())
        build_index(collection)

    with access.acting_as(reader, Purpose.TREATMENT):
        found, exact = (
            [
                n.image_id
                for n in index.nearest(
                    np.array([1, 0, 0], np.float32),
                    within=[c.pk for c in permitted],
                    encoder=live,
                    limit=20,
                    exact=exactly,
                    route=None if exactly else route,
                )
            ]
            for exactly in (False, True)
        )

    assert found[:10] == exact[:10]
    assert len(found) == 20


def test_a_search_that_takes_too_long_is_ended(
    live: EncoderVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.in_time, "DEADLINE_S", 0.001)
    mine = make_collection()
    make_images(mine, np.random.default_rng(0).normal(size=(3000, 3)).tolist())

    with pytest.raises(SearchTooSlow):
        search_as_reader(mine, [1, 0, 0], limit=500, exact=True)


def test_all_scans_of_a_search_share_one_deadline(
    live: EncoderVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.in_time, "DEADLINE_S", 0.2)
    mine = make_collection()
    make_images(mine, [[1, 0, 0]])

    def search_on_and_on() -> None:
        started = time.monotonic()
        with index.deadline():
            while time.monotonic() - started < 10:
                search_as_reader(mine, [1, 0, 0], limit=1)

    with pytest.raises(SearchTooSlow):
        search_on_and_on()


def test_vectors_of_an_image_that_was_not_de_identified_are_refused_in_bulk(
    live: EncoderVersion,
) -> None:
    mine = make_collection()
    ready, raw = make_image(mine), make_image(mine, state=State.REVIEW)

    with (
        database.role("worker"),
        access.processing(mine.pk),
        pytest.raises(NotDeidentified),
    ):
        index.store_all(mine.pk, [ready.pk, raw.pk], np.eye(3, dtype=np.float32)[:2], encoder=live)


def test_a_retired_encoder_leaves_its_row_and_nothing_else(
    shadow: EncoderVersion, image: Image
) -> None:
    fill(shadow, image)

    index.retire(shadow)

    assert EncoderVersion.objects.get(pk=shadow.pk).retired_at is not None
    with access.processing(image.collection_id):
        kept = Embedding.objects.values_list("encoder__name", flat=True)
        assert list(kept) == ["live"]
    with pytest.raises(ModelRefused, match="retired"):
        fill(shadow, image)
    with pytest.raises(ModelRefused, match="retired"):
        index.switch(shadow)
    with pytest.raises(ModelRefused, match="retired"):
        index.register_encoder(
            name=shadow.name, digest=shadow.digest, dimensions=shadow.dimensions, licence="any"
        )


def test_while_an_encoder_is_being_retired_what_is_left_of_it_is_not_found(
    live: EncoderVersion, superuser: psycopg.Connection[tuple[Any, ...]]
) -> None:
    reader, collection = make_user(), make_collection()
    grant(reader, collection)
    make_images(collection, [[1, 0, 0], [0, 1, 0]])
    superuser.execute("UPDATE retrieval_encoderversion SET retired_at = now()")

    with pytest.raises(EncoderUnavailable), access.reading_as(reader, Purpose.TREATMENT):
        index.nearest(np.eye(3)[0], within=[collection.pk], encoder=live, limit=1)


def test_the_live_encoder_is_not_retired(shadow: EncoderVersion) -> None:
    with pytest.raises(ModelRefused, match="switch"):
        index.retire(index.live_encoder())


def test_an_image_that_is_just_being_indexed_holds_a_switch_back_until_it_is_counted(
    shadow: EncoderVersion, image: Image
) -> None:
    """It would be found by the old encoder alone, and by nobody after the switch."""
    fill(shadow, image)
    live = index.live_encoder()
    switched: list[str] = []

    def switch() -> None:
        try:
            index.switch(shadow)
            switched.append("switched")
        except ModelRefused:
            switched.append("refused")
        finally:
            connection.close()

    other = threading.Thread(target=switch)
    with access.processing(image.collection_id):
        index.hold_live(live)
        other.start()
        other.join(timeout=0.5)
        assert switched == []
        Embedding.objects.filter(encoder_id=shadow.pk, image_id=image.pk).delete()
    other.join(timeout=10)

    assert switched == ["refused"]
    assert index.live_encoder() == live


def test_an_image_encoded_for_an_encoder_that_is_no_longer_live_is_not_indexed_by_it(
    shadow: EncoderVersion, image: Image
) -> None:
    before = index.live_encoder()
    fill(shadow, image)
    index.switch(shadow)

    with access.processing(image.collection_id), pytest.raises(EncoderUnavailable):
        index.hold_live(before)


def test_searches_go_on_while_encoders_are_switched_to_and_back(
    shadow: EncoderVersion, image: Image
) -> None:
    """Each search is answered, and in one space: the two encoders place the image apart."""
    fill(shadow, image)
    first = index.live_encoder()
    ended = threading.Event()
    outcomes: list[object] = []

    def search() -> None:
        # As a search does: one look at what is live, and its vectors alone from there on.
        try:
            while not ended.is_set():
                encoder = index.live_encoder()
                query = np.eye(encoder.dimensions, dtype=np.float32)[0]
                with access.processing(image.collection_id):
                    found = index.nearest(
                        query, within=[image.collection_id], encoder=encoder, limit=5
                    )
                outcomes.append([(n.image_id, round(n.distance, 2)) for n in found])
        except Exception as error:  # noqa: BLE001
            outcomes.append(error)
        finally:
            connection.close()

    searching = [threading.Thread(target=search) for _ in range(2)]
    for thread in searching:
        thread.start()
    for _ in range(10):
        index.switch(shadow)
        index.switch(first)
    ended.set()
    for thread in searching:
        thread.join(timeout=20)

    assert len(outcomes) > 10
    assert all(outcome == [(image.pk, 0.0)] for outcome in outcomes)
