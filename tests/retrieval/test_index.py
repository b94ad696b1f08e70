from collections.abc import Iterator

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from retrieval import access, index
from retrieval.errors import ModelRefused
from retrieval.models import Collection, EncoderVersion, Image, Purpose
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
        (query,) = [q["sql"] for q in captured if "ORDER BY distance" in q["sql"]]
        # So few rows would be sorted; thousands are not.
        cursor.execute("SET LOCAL enable_sort = off")
        cursor.execute(f"EXPLAIN {query}")
        plan = " ".join(row[0] for row in cursor.fetchall())

    assert f"retrieval_embedding_c{mine.pk}_e{live.pk}" in plan
    assert len(found) == 250
    distances = [n.distance_cosine for n in found]
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
