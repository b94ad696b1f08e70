"""Words that are looked for in reports, with an encoder in whose space a test can think."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from retrieval import access, index, queue
from retrieval.errors import AccessDenied
from retrieval.models import Collection, EncoderVersion, Image, Purpose, Reads, User
from retrieval.query import Group, LookIn, Part, Query
from retrieval.search import Answer, search
from tests import database
from tests.factories import grant, make_collection, make_encoder, make_image, make_user
from tests.retrieval.test_search import last_event

pytestmark = pytest.mark.usefixtures("db")

ASKED = {
    "test-encoder": np.eye(3, dtype=np.float32)[0],
    "of-reports": np.eye(2, dtype=np.float32)[0],
}


@pytest.fixture(autouse=True)
def asked(db: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The encoders that were asked, each of which answers any query with its x axis."""
    names: list[str] = []

    def encode_query(parts: Sequence[Any], *, encoder: str, **_: object) -> queue.QueryVectors:
        names.append(encoder)
        return queue.QueryVectors(encoder, (ASKED[encoder],) * len(parts))

    monkeypatch.setattr(queue, "encode_query", encode_query)
    make_encoder()
    return names


@pytest.fixture
def mine() -> Collection:
    return make_collection()


@pytest.fixture
def reader(mine: Collection) -> User:
    user = make_user()
    grant(user, mine)
    return user


def report_on(image: Image, *vectors: Sequence[float]) -> None:
    """As after it was read: vectors of its passages."""
    Collection.objects.filter(pk=image.collection_id).update(has_reports=True)
    rows = np.array(vectors, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with database.role("worker"):
        encoder = index.register_encoder(
            name="of-reports", digest="0" * 64, dimensions=2, licence="none", reads=Reads.REPORTS
        )
        with access.processing(image.collection_id):
            index.store_report(image, rows, encoder=encoder)


def ask(reader: User, *, limit: int = 20, **query: Any) -> Answer:
    asked_for = Query(**({"words": "effusion"} | query))
    return search(asked_for, actor=reader, purpose=Purpose.TREATMENT, limit=limit)


def found(answer: Answer) -> list[tuple[object, str]]:
    return [(hit.image_id, hit.found_in) for hit in answer.hits]


def test_a_picture_is_found_by_what_its_report_says(mine: Collection, reader: User) -> None:
    looks_it, looks_else, says_it = (
        make_image(mine, vector) for vector in ([1, 0, 0], [0.5, 1, 0], [0, 1, 0])
    )
    report_on(says_it, [0, 1], [1, 0.1])
    report_on(looks_it, [0, 1])

    in_reports = ask(reader, look_in=LookIn.REPORTS)
    assert found(in_reports) == [(says_it.pk, "report"), (looks_it.pk, "report")]
    assert in_reports.hits[0].score == 0.995
    assert [i for i, _ in found(ask(reader, look_in=LookIn.PICTURES))] == [
        looks_it.pk,
        looks_else.pk,
        says_it.pk,
    ]
    assert found(ask(reader)) == [
        (says_it.pk, "report"),
        (looks_it.pk, "picture"),
        (looks_else.pk, "picture"),
    ]


def test_a_report_beside_the_point_lifts_no_picture(mine: Collection, reader: User) -> None:
    looks_it, looks_else = (make_image(mine, vector) for vector in ([1, 0, 0], [0.5, 1, 0]))
    report_on(looks_else, [0.2, 1])

    for metric in index.Metric:
        alone = [(looks_it.pk, "picture"), (looks_else.pk, "picture")]
        assert found(ask(reader, metric=metric)) == alone
    assert found(ask(reader, look_in=LookIn.REPORTS)) == [(looks_else.pk, "report")]


def test_a_report_in_a_collection_one_may_not_read_finds_nothing_and_shows_nowhere(
    mine: Collection, reader: User, asked: list[str]
) -> None:
    visible, hidden = make_image(mine, [0, 1, 0]), make_image(make_collection(), [0, 1, 0])

    def count(captured: CaptureQueriesContext) -> int:
        """Without those that ask for sizes anew, every few seconds."""
        return sum("retrieval_indexpart" not in message["sql"] for message in captured)

    with CaptureQueriesContext(connection) as before:
        answer = ask(reader)
    report_on(hidden, [1, 0])
    with CaptureQueriesContext(connection) as after:
        again = ask(reader)

    assert found(answer) == found(again) == [(visible.pk, "picture")]
    assert [hit.score for hit in answer.hits] == [hit.score for hit in again.hits]
    assert count(before) == count(after)
    assert set(asked) == {"test-encoder"}
    assert ask(reader, look_in=LookIn.REPORTS).hits == []
    with pytest.raises(AccessDenied):
        ask(make_user(), look_in=LookIn.REPORTS)


def test_reports_of_several_collections_are_searched_where_one_may_read(
    mine: Collection, reader: User
) -> None:
    report_on(make_image(mine, [0, 1, 0]), [0.5, 1])
    report_on(make_image(make_collection(), [0, 1, 0]), [1, 0])

    assert {hit.collection for hit in ask(reader, look_in=LookIn.REPORTS).hits} == {mine.name}


def test_the_log_tells_where_was_looked(mine: Collection, reader: User) -> None:
    def looked_in(**query: Any) -> object:
        ask(reader, **query)
        return json.loads(last_event().details)["looked_in"]

    image = make_image(mine, [1, 0, 0])
    assert looked_in() == ["pictures"]
    report_on(image, [1, 0])
    assert looked_in() == ["pictures", "reports"]
    assert looked_in(look_in=LookIn.PICTURES) == ["pictures"]
    assert looked_in(look_in=LookIn.REPORTS) == ["reports"]
    assert looked_in(words="", like=image.pk) == ["pictures"]


def test_filters_and_groups_hold_for_what_a_report_finds(mine: Collection, reader: User) -> None:
    first, second = (make_image(mine, [1, 0, 0], study="one") for _ in range(2))
    scan = make_image(mine, [0, 1, 0], modality="CT")
    for image in (first, second, scan):
        report_on(image, [1, 0])

    narrowed = index.Filter(modalities=("CT",))
    assert found(ask(reader, look_in=LookIn.REPORTS, where=narrowed)) == [(scan.pk, "report")]
    assert len(ask(reader, look_in=LookIn.REPORTS, group=Group.STUDY).hits) == 2
    assert len(ask(reader, group=Group.STUDY).hits) == 2


def test_a_match_is_told_confident_where_it_looks_nearest_whatever_reports_say(
    mine: Collection, reader: User
) -> None:
    looks_it, *others = (make_image(mine, [1, n, 0]) for n in range(40))
    pictures_alone = ask(reader)
    assert pictures_alone.confident is not None

    report_on(others[0], [0.2, 1])
    assert ask(reader) == replace(pictures_alone, audit_number=ANY)

    report_on(looks_it, [1, 0])
    assert found(ask(reader))[0] == (looks_it.pk, "picture")
    assert ask(reader).confident is pictures_alone.confident

    report_on(looks_it, [0.2, 1])
    report_on(others[0], [1, 0])
    assert found(ask(reader))[0] == (others[0].pk, "report")
    assert ask(reader).confident is None
    assert ask(reader, look_in=LookIn.REPORTS).confident is None


def test_a_long_report_hides_no_other_and_asks_for_no_more_than_ten_rows_an_image(
    mine: Collection, reader: User
) -> None:
    long, *others = (make_image(mine, [0, 1, 0]) for _ in range(3))
    report_on(long, *([1, n / 1000] for n in range(60)))
    for image in others:
        report_on(image, [1, 1])

    with CaptureQueriesContext(connection) as captured:
        answer = ask(reader, look_in=LookIn.REPORTS, limit=3)

    assert answer.hits[0].image_id == long.pk
    assert {hit.image_id for hit in answer.hits} == {long.pk, *(image.pk for image in others)}
    said = " ".join(message["sql"] for message in captured)
    assert re.findall(r"LIMIT (\d+)\) AS nearest", said) == ["30", "120"]


def test_only_words_are_looked_for_in_reports(mine: Collection, reader: User) -> None:
    image = make_image(mine, [1, 0, 0])
    report_on(image, [1, 0])

    for other in ({"like": image.pk}, {"image": b"x"}, {"liked": (image.pk,)}):
        with pytest.raises(ValueError, match="words alone"):
            Query("effusion", look_in=LookIn.REPORTS, **other)
    mixed = Query("effusion", parts=(Part(like=image.pk), Part(words="no", weight=-1.0)))
    of_words = mixed.of_words()
    assert of_words is not None
    assert [(part.words, part.weight) for part in of_words.all_parts()] == [
        ("effusion", 1.0),
        ("no", -1.0),
    ]
    assert Query(like=image.pk, without="no").of_words() is None


def test_a_search_goes_on_with_the_encoder_of_reports_that_took_another_s_place(
    mine: Collection, reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(mine, [0, 1, 0])
    report_on(image, [1, 0])
    first = index.live_report_encoder()
    with database.role("worker"):
        second = index.register_encoder(
            name="second", digest="1" * 64, dimensions=2, licence="none", reads=Reads.REPORTS
        )
        with access.processing(mine.pk):
            index.store_report(image, np.eye(2, dtype=np.float32)[:1], encoder=second)
    monkeypatch.setitem(ASKED, "second", ASKED["of-reports"])
    encode = queue.encode_query

    def switch_meanwhile(parts: Sequence[Any], *, encoder: str, **more: Any) -> queue.QueryVectors:
        if first is not None and encoder == first.name:
            with database.role("worker"):
                index.switch(second)
                index.retire(first)
        return encode(parts, encoder=encoder, **more)

    monkeypatch.setattr(queue, "encode_query", switch_meanwhile)

    assert found(ask(reader, look_in=LookIn.REPORTS)) == [(image.pk, "report")]


def test_before_any_report_was_read_reports_find_nothing(mine: Collection, reader: User) -> None:
    image = make_image(mine, [1, 0, 0])
    Collection.objects.filter(pk=mine.pk).update(has_reports=True)

    assert found(ask(reader)) == [(image.pk, "picture")]
    assert ask(reader, look_in=LookIn.REPORTS).hits == []
    assert not EncoderVersion.objects.filter(reads=Reads.REPORTS).exists()
