"""Tags that the encoder sets, on vectors that are made so that it is known what they show."""

from collections.abc import Sequence

import numpy as np
import pytest
from django.db import ProgrammingError, connection

from retrieval import access, audit, confidence, index, look, queue, tag_words
from retrieval.errors import AccessDenied
from retrieval.index import Filter
from retrieval.models import (
    AuditEvent,
    Collection,
    EncoderVersion,
    Image,
    Purpose,
    Role,
    TagWord,
    User,
)
from tests import database
from tests.factories import grant, make_collection, make_encoder, make_images, make_user, operator

pytestmark = pytest.mark.usefixtures("db")

DIMENSIONS = 16
IMAGES = 120
DOGS = 12
DOG, ZEBRA = np.eye(DIMENSIONS, dtype=np.float32)[:2]


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def pictures(dogs: Sequence[int], *, count: int = IMAGES) -> np.ndarray:
    """(count, DIMENSIONS): of these numbers, dogs; of the others, nothing in particular."""
    rows = np.random.default_rng(0).normal(size=(count, DIMENSIONS))
    rows[:, :2] *= 0.2
    rows[list(dogs), 0] = 8
    return unit(rows)


@pytest.fixture(autouse=True)
def encoder_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real encoder is asked by `benchmark tags`."""
    rows = np.random.default_rng(1).normal(size=(len(confidence.OTHER_WORDS), DIMENSIONS))
    others = dict(zip(confidence.OTHER_WORDS, rows, strict=True))

    def encode_query(
        parts: Sequence[queue.ToEncode], *, encoder: str, **_: object
    ) -> queue.QueryVectors:
        known = [DOG if "dog" in p.words else ZEBRA for p in parts]
        rows = [others.get(p.words, row) for p, row in zip(parts, known, strict=True)]
        return queue.QueryVectors(encoder, tuple(unit(np.stack(rows))))

    monkeypatch.setattr(queue, "encode_query", encode_query)
    confidence.other_words.cache_clear()


@pytest.fixture
def live(db: None) -> EncoderVersion:
    return make_encoder(dimensions=DIMENSIONS)


@pytest.fixture
def collection(live: EncoderVersion) -> Collection:
    """Of the words dog and zebra. Its first pictures show dogs, and none shows a zebra."""
    collection = make_collection()
    set_words(collection, ["dog", "zebra"])
    return collection


@pytest.fixture
def images(collection: Collection) -> list[Image]:
    return make_images(collection, pictures(range(DOGS)).tolist())


@pytest.fixture
def reader(collection: Collection) -> User:
    user = make_user()
    grant(user, collection)
    return user


def set_words(collection: Collection, words: Sequence[str], actor: User | None = None) -> None:
    who, purpose = (actor or operator()), Purpose.ADMINISTRATION
    with access.acting_as(who, purpose):
        tag_words.set_words(collection, words, actor=who, purpose=purpose)


def care() -> int:
    with database.role("worker"):
        return tag_words.care()


def found(reader: User, collection: Collection, where: Filter) -> set[object]:
    with access.acting_as(reader, Purpose.TREATMENT):
        near = index.nearest(
            ZEBRA,
            within=[collection.pk],
            encoder=index.live_encoder(),
            limit=2 * IMAGES,
            where=where,
        )
    return {neighbour.image_id for neighbour in near}


def shown(image: Image, reader: User) -> tuple[str, ...]:
    """The encoder's tags on the image's page, and to programs."""
    ways = (look.look_at, look.look_at_status)
    (tags,) = {
        way(image.pk, actor=reader, purpose=Purpose.TREATMENT).automatic_tags for way in ways
    }
    return tags


def ids(images: Sequence[Image]) -> set[object]:
    return {image.pk for image in images}


def store(image: Image, vector: np.ndarray, encoder: EncoderVersion) -> None:
    with database.role("worker"), access.processing(image.collection_id):
        index.store(image, vector, encoder=encoder)


def test_a_word_is_set_where_it_stands_out_and_searched_like_people_s_tags(
    images: list[Image], collection: Collection, reader: User
) -> None:
    (tagged,) = make_images(collection, [ZEBRA.tolist()], tags=["dog"])

    assert care() == 2
    assert care() == 0

    assert found(reader, collection, Filter(tags=("dog",))) == ids([*images[:DOGS], tagged])
    assert found(reader, collection, Filter(tags=("dog", "zebra"))) == {tagged.pk}
    assert found(reader, collection, Filter(peoples_tags=("dog",))) == {tagged.pk}
    assert shown(images[0], reader) == ("dog",)
    assert shown(images[DOGS], reader) == ()


def test_an_image_is_tagged_with_its_vector_and_by_that_vector_alone(
    images: list[Image], collection: Collection, reader: User, live: EncoderVersion
) -> None:
    care()

    (late,) = make_images(collection, [DOG.tolist()])
    store(images[0], pictures([])[0], live)

    assert found(reader, collection, Filter(tags=("dog",))) == ids([*images[1:DOGS], late])


def test_a_switch_of_encoders_switches_tags_and_never_mixes_them(
    images: list[Image], collection: Collection, reader: User
) -> None:
    care()
    shadow = make_encoder(DIMENSIONS, "shadow")
    with database.role("worker"), access.processing(collection.pk):
        others = pictures(range(DOGS, 2 * DOGS))
        index.store_all(collection.pk, [i.pk for i in images], others, encoder=shadow)
    with database.role("worker"):
        index.switch(shadow)

    assert found(reader, collection, Filter(tags=("dog",))) == set()
    assert shown(images[0], reader) == ()
    care()
    assert found(reader, collection, Filter(tags=("dog",))) == ids(images[DOGS : 2 * DOGS])

    with database.role("worker"):
        index.switch(EncoderVersion.objects.exclude(pk=shadow.pk).get())
        assert found_thresholds(collection) == 4
        index.retire(shadow)
        assert found_thresholds(collection) == 2
    assert found(reader, collection, Filter(tags=("dog",))) == ids(images[:DOGS])


def found_thresholds(collection: Collection) -> int:
    with access.processing(collection.pk), connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM retrieval_tagthreshold")
        return int(cursor.fetchone()[0])


def test_a_word_that_is_taken_back_is_gone_at_once(
    images: list[Image], collection: Collection, reader: User
) -> None:
    care()

    set_words(collection, ["zebra"])

    assert found(reader, collection, Filter(tags=("dog",))) == set()
    assert shown(images[0], reader) == ()


def test_thresholds_are_chosen_anew_when_a_collection_has_grown(
    images: list[Image], collection: Collection
) -> None:
    care()
    make_images(collection, pictures([], count=IMAGES - 1).tolist())
    assert care() == 0

    make_images(collection, [ZEBRA.tolist()])
    assert care() == 2


def test_of_few_images_nothing_is_tagged(collection: Collection, reader: User) -> None:
    make_images(collection, pictures(range(DOGS), count=tag_words.LEAST_IMAGES - 1).tolist())

    assert care() == 0


def test_words_are_set_by_who_may_import_and_the_log_tells_none(
    collection: Collection, reader: User
) -> None:
    for role in (Role.SEARCHER, Role.REVIEWER):
        other = make_user()
        grant(other, collection, role, Purpose.ADMINISTRATION)
        with pytest.raises(AccessDenied):
            set_words(collection, ["cat"], other)
        with pytest.raises(ProgrammingError), access.acting_as(other, Purpose.ADMINISTRATION):
            TagWord.objects.create(collection=collection, word="cat")
    with pytest.raises(ValueError, match="at most"):
        set_words(collection, [str(number) for number in range(33)])

    last = AuditEvent.objects.order_by("number")
    make_reader_of_the_log(reader)
    with access.acting_as(reader, Purpose.TREATMENT):
        details = last.filter(details__contains="tag words").get().details
    assert audit.fingerprint("dog") in details
    assert "dog" not in details.replace(audit.fingerprint("dog"), "")


def make_reader_of_the_log(user: User) -> None:
    user.is_superuser = True
    user.save()


@pytest.mark.parametrize(
    "table", ["retrieval_tagword", "retrieval_tagthreshold", "retrieval_automatictag"]
)
def test_words_and_tags_show_in_granted_collections_only(
    table: str, images: list[Image], collection: Collection, reader: User
) -> None:
    care()
    foreign = make_user()
    grant(foreign, make_collection())
    rows = {}
    for who in (reader, foreign):
        with access.acting_as(who, Purpose.TREATMENT), connection.cursor() as cursor:
            cursor.execute(f"SELECT count(collection_id) FROM {table}")
            (rows[who],) = cursor.fetchone()

    assert rows[reader] > 0
    assert rows[foreign] == 0


def test_what_a_threshold_is_made_of_stays_in_the_database(reader: User) -> None:
    for column in ("direction", "least_score"):
        with (
            pytest.raises(ProgrammingError, match="permission denied"),
            access.acting_as(reader, Purpose.TREATMENT),
            connection.cursor() as cursor,
        ):
            cursor.execute(f"SELECT {column} FROM retrieval_tagthreshold")
