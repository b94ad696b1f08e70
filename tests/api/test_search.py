import json
from typing import Any

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from appliance.api import paging
from retrieval import access, index, queue
from retrieval.errors import EncoderUnavailable, SearchTooSlow
from retrieval.models import Collection, Image, Kind, Purpose, Role, ServiceAccount
from retrieval.models.image import Region
from tests import database
from tests.api.conftest import ask, with_token
from tests.factories import grant, make_collection, make_image, make_token, png
from tests.web.conftest import Log, jpeg

pytestmark = pytest.mark.usefixtures("encoder_answers")

NOBODYS = "00000000-0000-4000-8000-000000000000"


def test_a_search_finds_what_the_token_opens_and_names_its_entry_in_the_log(
    program: Client, image: Image, log: Log
) -> None:
    hidden = make_image(make_collection("sealed"), [1.0, 0.0, 0.0])

    told = ask(program).json()

    assert [hit["image"] for hit in told["hits"]] == [str(image.pk)]
    assert told["hits"][0]["score"] == 1.0
    assert log(Kind.SEARCH_SERVED)[-1]["images"] == [str(image.pk)]
    assert str(hidden.pk) not in json.dumps(told)


def test_a_hit_tells_the_box_of_the_part_that_it_was_found_by(
    program: Client, image: Image
) -> None:
    assert ask(program).json()["hits"][0]["region"] is None
    with database.role("worker"), access.processing(image.collection_id):
        parts = [(Region(10, 20, 300, 200), np.eye(3)[0])]
        index.store(image, np.eye(3)[1], encoder=index.live_encoder(), parts=parts)

    assert ask(program).json()["hits"][0]["region"] == [10, 20, 300, 200]


def test_source_names_are_told_only_where_they_may_be_seen(
    account: ServiceAccount, image: Image, program: Client
) -> None:
    assert ask(program).json()["hits"][0]["source"] == "meier.jpg"

    account.grant_set.update(role=Role.SEARCHER)
    answer = ask(program)
    assert answer.json()["hits"][0]["source"] is None
    assert b"meier" not in answer.content


@pytest.mark.parametrize(
    ("error", "reason"), [(SearchTooSlow("in time"), "too_slow"), (EncoderUnavailable("no"), None)]
)
def test_a_search_that_may_be_asked_again_says_when(
    program: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str | None
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(queue, "encode_query", fail)

    answer = ask(program)

    assert (answer.status_code, answer.json().get("reason")) == (503, reason)
    assert answer["Retry-After"] == "5"


def test_a_search_takes_an_image_and_the_rest_of_the_query_beside_it(
    program: Client, image: Image
) -> None:
    form = {"image": SimpleUploadedFile("x.png", png()), "query": json.dumps({"limit": 1})}

    answer = program.post("/api/v1/search/image", form)

    assert [hit["image"] for hit in answer.json()["hits"]] == [str(image.pk)]


def test_a_search_takes_all_that_a_query_has(program: Client, image: Image) -> None:
    answer = ask(
        program,
        words="wrist",
        without="cast",
        parts=[{"like": str(image.pk), "weight": 0.5}],
        liked=[str(image.pk)],
        where={"received_from": "2020-01-01", "modalities": []},
        metric="euclidean",
        fusion="ranks",
        group="subject",
        diversity=0.3,
        limit=3,
    )

    assert answer.status_code == 200, answer.content
    assert [hit["image"] for hit in answer.json()["hits"]] == [str(image.pk)]


@pytest.mark.parametrize(
    "query",
    [
        {"words": " "},
        {"without": "cast"},
        {"words": "x", "limit": 0},
        {"words": "x", "limit": 201},
        {"words": "x" * 501},
        {"words": "x", "surprise": 1},
        {"like": "no id"},
        {"words": "x", "collections": []},
        {"words": "x", "collections": [2**70]},
        {"words": "x", "where": {"tags": ["a\0b"]}},
    ],
)
def test_what_is_no_query_is_told_where_and_never_repeated(
    program: Client, image: Image, query: dict[str, Any]
) -> None:
    answer = ask(program, **query)

    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "input" not in answer.content.decode()


def test_similar_images_are_found_by_a_stored_one(
    program: Client, image: Image, collection: Collection
) -> None:
    near = make_image(collection, [0.9, 0.1, 0.0])

    told = program.get(f"/api/v1/images/{image.pk}/similar?limit=2").json()

    assert [hit["image"] for hit in told["hits"]] == [str(image.pk), str(near.pk)]


def test_a_picture_is_handed_out_with_a_tag_and_a_look_at_it_again_is_on_the_log(
    program: Client, image: Image, log: Log
) -> None:
    url = f"/api/v1/images/{image.pk}/preview"
    first = program.get(url)
    again = program.get(url, headers={"If-None-Match": first.headers["ETag"]})

    assert (first.content, first.headers["Content-Type"]) == (jpeg(), "image/jpeg")
    assert (again.status_code, again.content) == (304, b"")
    assert [e["form"] for e in log(Kind.IMAGE_VIEWED)] == ["preview", "preview"]


def test_an_unchanged_picture_is_not_confirmed_to_who_may_no_longer_see_it(
    program: Client, account: ServiceAccount, image: Image
) -> None:
    url = f"/api/v1/images/{image.pk}/preview"
    tag = program.get(url).headers["ETag"]
    account.grant_set.all().delete()

    assert program.get(url, headers={"If-None-Match": tag}).status_code == 404
    assert program.get(url, headers={"If-None-Match": "*"}).status_code == 404


@pytest.mark.parametrize("part", ["", "/preview", "/thumbnail", "/similar", "/duplicates"])
def test_foreign_and_missing_images_answer_alike_to_the_byte(
    part: str, program: Client, image: Image
) -> None:
    foreign = make_image(make_collection(), [1.0, 0.0, 0.0], preview=jpeg())
    answers = [program.get(f"/api/v1/images/{i}{part}") for i in (foreign.pk, NOBODYS)]

    assert [a.status_code for a in answers] == [404, 404]
    assert answers[0].content == answers[1].content
    assert dict(answers[0].headers) == dict(answers[1].headers)


def test_foreign_and_missing_things_in_a_query_answer_alike_to_the_byte(
    program: Client, image: Image
) -> None:
    other = make_collection()
    foreign = make_image(other, [1.0, 0.0, 0.0])
    for queries in (
        [{"like": str(foreign.pk)}, {"like": NOBODYS}],
        [{"words": "x", "collections": [other.pk]}, {"words": "x", "collections": [999_999]}],
        [{"words": "x", "liked": [str(foreign.pk)]}, {"words": "x", "liked": [NOBODYS]}],
    ):
        answers = [ask(program, **query) for query in queries]
        assert [a.status_code for a in answers] == [404, 404]
        assert answers[0].content == answers[1].content


def test_collections_are_those_the_token_opens_page_by_page(
    account: ServiceAccount, collection: Collection
) -> None:
    more = [make_collection() for _ in range(2)]
    for other in more:
        grant(account, other, Role.VIEWER)
    make_collection("sealed")
    client = with_token(make_token(account, collection, *more)[1])

    first = client.get("/api/v1/collections?limit=2").json()
    rest = client.get(f"/api/v1/collections?limit=2&cursor={first['next']}").json()

    found = first["items"] + rest["items"]
    assert [c["id"] for c in found] == [collection.pk, *(c.pk for c in more)]
    assert found[0]["may"] == ["view", "search", "see_source_names", "ingest"]
    assert found[1]["may"] == ["view"]
    assert rest["next"] is None


def test_a_cursor_with_a_zone_far_away_is_read(program: Client) -> None:
    cursor = paging.encode("2026-01-01T00:00:00+23:00", NOBODYS)

    assert program.get("/api/v1/jobs", {"cursor": cursor}).status_code == 200


@pytest.mark.parametrize("cursor", ["x", "W10", "WyJhIl0", "bnVsbA", "é", "WzFd" * 100])
def test_a_cursor_that_nobody_gave_out_is_refused(program: Client, cursor: str) -> None:
    for path in ("collections", "jobs", "audit/events"):
        assert program.get(f"/api/v1/{path}", {"cursor": cursor}).status_code == 422, path


def test_the_purpose_is_said_where_the_token_leaves_a_choice(
    account: ServiceAccount, collection: Collection, image: Image
) -> None:
    _, text = make_token(account, collection, purposes=[Purpose.TREATMENT, Purpose.RESEARCH])

    assert ask(with_token(text)).status_code == 400
    assert ask(with_token(text, {"Purpose-Of-Use": "FUN"})).status_code == 400
    assert ask(with_token(text, {"Purpose-Of-Use": "HRESCH"})).status_code == 200
    assert ask(with_token(text, {"Purpose-Of-Use": "HOPERAT"})).status_code == 403


def test_every_error_is_a_problem_document(program: Client, image: Image) -> None:
    def json_post(body: bytes, kind: str = "application/json") -> Any:
        return program.generic("POST", "/api/v1/search", body, kind)

    answers = {
        401: Client().get("/api/v1/collections"),
        404: program.get("/api/v1/nothing/here"),
        405: program.delete("/api/v1/collections"),
        413: json_post(b'"' + b"x" * 1_100_000 + b'"'),
        415: json_post(b"words=x", "text/plain"),
        400: json_post(b"{"),
        422: json_post(b"[]"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == status
    assert answers[401].headers["WWW-Authenticate"].startswith("Bearer")
    assert answers[405].headers["Allow"] == "GET"


def test_query_words_reach_neither_the_log_nor_an_error(
    program: Client, image: Image, caplog: pytest.LogCaptureFixture, superuser: Any
) -> None:
    for query in (
        {"words": "zebrafracture"},
        {"words": "x", "zebrafracture": 1},
        {"words": ["zebrafracture"]},
    ):
        ask(program, **query)

    assert "zebrafracture" not in caplog.text
    rows = superuser.execute("SELECT details FROM retrieval_auditevent").fetchall()
    assert not any("zebrafracture" in str(row) for row in rows)


def test_the_documentation_is_served_from_here_alone(db: None) -> None:
    page = Client().get("/api/v1/docs")
    text = page.content.decode()

    assert page.status_code == 200
    assert "http://" not in text
    assert "https://" not in text
    for script in text.split("<script")[1:]:
        assert "src=" in script.split(">")[0] or 'type="application/json"' in script.split(">")[0]
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    document = Client().get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
