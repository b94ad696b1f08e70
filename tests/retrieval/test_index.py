from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pgvector import HalfVector

from retrieval import access, index
from retrieval.errors import ModelRefused
from retrieval.index import Filter, Metric
from retrieval.models import Collection, Embedding, EncoderVersion, Image, Purpose
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


def test_beyond_the_exact_scan_the_hnsw_index_answers_with_every_row_asked_for(
    live: EncoderVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "EXACT_SCAN_ROWS", 10)
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    angles = np.linspace(0, 1, 300)
    make_images(mine, [[np.cos(a), np.sin(a), 0] for a in angles])

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
        cursor.execute(f"EXPLAIN {query}")
        plan = " ".join(row[0] for row in cursor.fetchall())

    assert f"retrieval_embedding_c{mine.pk}_e{live.pk}" in plan
    assert len(found) == 250
    distances = [n.distance for n in found]
    assert distances == sorted(distances)


def test_every_partition_has_an_index_for_every_encoder(
    shadow: EncoderVersion, image: Image, var: object
) -> None:
    with database.role("web"):
        later = make_collection()
    with database.connect(var, "superuser") as superuser:  # type: ignore[arg-type]
        rows = superuser.execute(
            "SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%USING hnsw%'"
        ).fetchall()

    encoders = EncoderVersion.objects.values_list("pk", flat=True)
    assert {name for (name,) in rows} == {
        f"retrieval_embedding_c{collection.pk}_e{encoder}"
        for collection in (Collection.objects.get(pk=image.collection_id), later)
        for encoder in encoders
    }


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
    monkeypatch.setattr(index, "EXACT_SCAN_ROWS", 10)
    mine = make_collection()
    make_images(mine, [[1, a / 100, 0] for a in range(40)])
    (far,) = make_images(mine, [[-1, 0, 0]], **fields)

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
    monkeypatch.setattr(index, "EXACT_SCAN_ROWS", 10)
    mine = make_collection()
    make_images(mine, [[1, a / 1000, 0] for a in range(400)])
    far = make_images(mine, [[-1, a / 10, 0] for a in range(12)], modality="CT")
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


def test_an_image_of_many_regions_is_found_once_and_takes_nobody_s_place(
    live: EncoderVersion,
) -> None:
    mine = make_collection()
    near, other = make_images(mine, [[1, 0, 0], [0, 1, 0]])
    with database.role("worker"), access.processing(mine.pk):
        Embedding.objects.bulk_create(
            Embedding(
                collection_id=mine.pk,
                image_id=near.pk,
                encoder_id=live.pk,
                region=region,
                vector=HalfVector([1, 0.01 * region, 0]),
            )
            for region in range(1, 9)
        )

    assert search_as_reader(mine, [1, 0, 0], limit=2) == [near, other]


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
