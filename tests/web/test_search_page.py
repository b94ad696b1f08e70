import logging
import re
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from appliance.web import middleware
from appliance.web.forms import SearchForm
from appliance.web.views import search as search_views
from retrieval import access, index, queue
from retrieval import search as domain
from retrieval.errors import (
    EncoderUnavailable,
    NeedsReview,
    NoTextTower,
    Reason,
    Rejected,
    SearchTooSlow,
)
from retrieval.index import Filter
from retrieval.models import Collection, Kind, Role, User
from retrieval.models.image import Region
from retrieval.query import Group, Part, Query
from retrieval.search import Answer
from tests import database
from tests.factories import grant, make_collection, make_image, make_user
from tests.web.conftest import Blocked, Log, Superuser, jpeg, signed_in

pytestmark = pytest.mark.usefixtures("encoder_answers")

WORDS = "zebrafracture"


def test_results_show_what_was_granted_and_say_where_they_are_recorded(
    browser: Client, collection: Collection, log: Log, superuser: Superuser
) -> None:
    seen = make_image(collection, [0.0, 1.0, 0.0], name="meier.jpg", preview=jpeg())
    hidden = make_image(make_collection("sealed"), [1.0, 0.0, 0.0], preview=jpeg())

    page = browser.post("/", {"words": WORDS}).content.decode()

    assert str(seen.pk) in page
    assert str(hidden.pk) not in page
    assert "sealed" not in page
    ((number,),) = superuser.execute("SELECT max(number) FROM retrieval_auditevent")
    assert f"Recorded as entry {number}" in page
    assert log(Kind.SEARCH_SERVED)[0]["images"] == [str(seen.pk)]


def test_the_part_that_an_image_was_found_by_is_marked_on_it(
    browser: Client, collection: Collection
) -> None:
    image = make_image(collection, [0, 1, 0], preview=jpeg(), width=1640, height=480)
    with database.role("worker"), access.processing(collection.pk):
        index.store(
            image,
            np.eye(3)[1],
            encoder=index.live_encoder(),
            parts=[(Region(1010, 20, 300, 200), np.eye(3)[0])],
        )
    other = make_image(collection, [0, 0, 1], preview=jpeg(), width=64, height=48)
    mark = 'viewBox="0 0 1640 480"[^<]*><rect x="1010" y="20" width="300" height="200"/>'

    page = browser.post("/", {"words": WORDS}).content.decode()

    assert len(re.findall(mark, page)) == page.count("<rect") == 1
    address = f"{reverse('image', args=[image.pk])}?found=1010,20,300,200"
    assert page.count(f'"{address}"') == page.count("?found=") == 2
    assert page.count(f'"{reverse("image", args=[other.pk])}"') == 2
    assert re.search(mark, browser.get(address).content.decode())
    assert browser.get(f"{address},1").status_code == 400


def test_source_names_are_shown_only_where_they_may_be_seen(
    browser: Client, collection: Collection, reader: User
) -> None:
    make_image(collection, [1.0, 0.0, 0.0], name="meier.jpg")
    assert "meier.jpg" not in browser.post("/", {"words": WORDS}).content.decode()

    grant(reader, collection, Role.CURATOR)
    assert "meier.jpg" in browser.post("/", {"words": WORDS}).content.decode()


def test_scores_are_shown_rounded(browser: Client, collection: Collection) -> None:
    make_image(collection, [0.123456, 1.0, 0.0])

    page = browser.post("/", {"words": WORDS}).content.decode()

    assert re.findall(r"0\.\d{4,}", page) == []


def test_query_words_appear_in_no_address_log_or_audit_entry(
    browser: Client, collection: Collection, superuser: Superuser, caplog: pytest.LogCaptureFixture
) -> None:
    make_image(collection, [1.0, 0.0, 0.0])
    with caplog.at_level(logging.DEBUG):
        answer = browser.post("/", {"words": WORDS, "without": WORDS})

    page = answer.content.decode()
    addresses = re.findall(r'(?:href|src|action|hx-\w+)="([^"]*)"', page)
    assert not any(WORDS in address for address in addresses)
    assert WORDS not in caplog.text
    rows = superuser.execute("SELECT details FROM retrieval_auditevent").fetchall()
    assert not any(WORDS in str(details) for (details,) in rows)
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert "no-store" in answer.headers["Cache-Control"]


def test_words_in_an_address_search_nothing(browser: Client, log: Log) -> None:
    browser.get("/", {"words": WORDS})

    assert log(Kind.SEARCH_SERVED) == []


def test_a_search_for_a_purpose_without_grant_is_refused_in_one_sentence(
    collection: Collection, log: Log
) -> None:
    answer = signed_in(make_user()).post("/", {"words": WORDS})

    assert answer.status_code == 403
    assert "There is nothing you may search for this purpose." in answer.content.decode()
    assert len(log(Kind.SEARCH_DENIED)) == 1


def test_only_readable_collections_are_offered(
    browser: Client, collection: Collection, reader: User
) -> None:
    grant(reader, make_collection("second"), Role.SEARCHER)
    sealed = make_collection("sealed")

    assert "second" in browser.get("/").content.decode()
    assert "sealed" not in browser.get("/").content.decode()
    answer = browser.post("/", {"words": WORDS, "collections": [sealed.pk]})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (Rejected(Reason.DECODE_FAILED), 422, "cannot be used: decode failed."),
        (NeedsReview(Reason.DETECTOR_FAILED), 422, "not be de-identified: detector failed."),
        (EncoderUnavailable("no worker"), 503, "Please try again."),
        (NoTextTower("images only"), 422, "reads images only"),
        (SearchTooSlow("in time"), 503, "took too long"),
    ],
)
def test_a_query_that_cannot_be_encoded_gets_one_sentence(
    browser: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, sentence: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(queue, "encode_query", fail)
    example = SimpleUploadedFile("holiday.jpg", jpeg(), "image/jpeg")

    answer = browser.post("/", {"image": example})

    assert answer.status_code == status
    assert sentence in answer.content.decode()
    assert "holiday.jpg" not in answer.content.decode()


@pytest.mark.parametrize("name", ["like", "copies", "liked"])
def test_an_image_that_is_gone_or_foreign_gets_the_same_sentence(
    browser: Client, collection: Collection, name: str
) -> None:
    make_image(collection, [1.0, 0.0, 0.0])
    foreign = make_image(make_collection("sealed"), [1.0, 0.0, 0.0])

    for image_id in (foreign.pk, uuid4()):
        answer = browser.post("/", {name: image_id})
        assert answer.status_code == 403
        assert "is no longer there, or not for this purpose" in answer.content.decode()


def test_too_many_judged_images_are_told_from_a_query_that_cancels_itself_out(
    browser: Client, collection: Collection
) -> None:
    answer = browser.post("/", {"words": WORDS, "liked": [uuid4() for _ in range(65)]})

    assert answer.status_code == 400
    assert "at most 64 images are judged" in answer.content.decode()


def test_a_query_image_lies_in_a_file_without_a_name(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the process while it searches, nothing of the picture stays behind."""
    arrived: list[bytes] = []
    names_meanwhile: list[Path] = []
    original = domain.search

    def search(query: Query, **context: Any) -> Answer:
        arrived.append(query.parts[0].image)
        names_meanwhile.extend(settings.FILE_UPLOAD_TEMP_DIR.iterdir())
        return original(query, **context)

    monkeypatch.setattr(search_views, "search", search)

    browser.post("/", {"image": SimpleUploadedFile("a.jpg", jpeg(), "image/jpeg")})

    assert arrived == [jpeg()]
    assert names_meanwhile == []


@pytest.mark.parametrize("who", ["reader", "nobody"])
def test_too_large_an_upload_is_refused_before_it_is_read(
    browser: Client, client: Client, who: str
) -> None:
    visitor = browser if who == "reader" else client
    too_much = str(middleware.MAX_FORM_BYTES + 1)

    answer = visitor.generic(
        "POST", "/", b"", content_type="multipart/form-data; boundary=x", CONTENT_LENGTH=too_much
    )

    assert answer.status_code == 413


def test_a_search_needs_the_forgery_token(reader: User, collection: Collection) -> None:
    answer = signed_in(reader, enforce_csrf_checks=True).post("/", {"words": WORDS})

    assert answer.status_code == 403


def test_an_answer_that_cannot_be_recorded_is_not_given(
    browser: Client, collection: Collection, log_blocked: Blocked
) -> None:
    image = make_image(collection, [1.0, 0.0, 0.0])

    with log_blocked():
        answer = browser.post("/", {"words": WORDS})

    assert answer.status_code == 503
    assert str(image.pk) not in answer.content.decode()


def test_more_like_this_finds_the_neighbours_of_a_stored_image(
    browser: Client, collection: Collection
) -> None:
    first = make_image(collection, [1.0, 0.0, 0.0])
    second = make_image(collection, [0.9, 0.1, 0.0])

    page = browser.post("/", {"like": str(first.pk)}).content.decode()

    assert page.index(str(first.pk)) < page.index(str(second.pk))


def test_an_image_of_a_sealed_collection_is_no_example(
    browser: Client, collection: Collection
) -> None:
    sealed = make_image(make_collection("sealed"), [1.0, 0.0, 0.0])

    answer = browser.post("/", {"like": str(sealed.pk)})

    assert answer.status_code == 403


def test_a_part_of_a_page_asked_for_after_the_session_ended_sends_to_the_sign_in(
    client: Client,
) -> None:
    answer = client.get(reverse("sign_in"), headers={"HX-Request": "true"})

    assert answer.headers["HX-Redirect"] == reverse("sign_in")


def asked(monkeypatch: pytest.MonkeyPatch) -> list[Query]:
    """The queries the page asks, in place of answers."""
    queries: list[Query] = []

    def search(query: Query, **_: Any) -> Answer:
        queries.append(query)
        return Answer([], 1)

    monkeypatch.setattr(search_views, "search", search)
    return queries


def test_a_part_of_an_example_is_given_by_numbers(
    browser: Client, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = asked(monkeypatch)

    browser.post(
        "/", {"image": SimpleUploadedFile("a.jpg", jpeg(), "image/jpeg"), "region": "1, 2,30 ,40"}
    )

    assert queries[0].parts == (Part(image=jpeg(), region=Region(1, 2, 30, 40)),)


@pytest.mark.parametrize("region", ["1,2,3", "a,b,c,d", "0,0,0,9", "-1,0,9,9"])
def test_what_is_no_part_of_an_image_is_refused_in_one_sentence(
    browser: Client, collection: Collection, region: str
) -> None:
    stored = make_image(collection, [1.0, 0.0, 0.0])

    answer = browser.post("/", {"like": str(stored.pk), "like_region": region})

    assert answer.status_code == 400
    assert "four numbers of pixels" in answer.content.decode()


def test_what_narrows_a_search_reaches_the_query(
    browser: Client, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = asked(monkeypatch)

    browser.post(
        "/",
        {
            "words": WORDS,
            "taken_from": "2020-01-31",
            "media_type": "application/dicom",
            "modality": "ct",
            "tags": "left knee, follow-up,",
            "peoples_tags": "mine",
            "subject": "7",
            "variety": "on",
            "group": "subject",
        },
    )

    (query,) = queries
    assert query.where == Filter(
        taken_from=date(2020, 1, 31),
        media_types=("application/dicom",),
        modalities=("CT",),
        tags=("left knee", "follow-up"),
        peoples_tags=("mine",),
        subjects=(7,),
    )
    assert query.diversity > 0
    assert query.group is Group.SUBJECT


def test_judged_results_stay_judged_on_the_next_page(
    browser: Client, collection: Collection
) -> None:
    liked = make_image(collection, [1.0, 0.0, 0.0])
    hidden_by_the_filter = make_image(collection, [0.0, 1.0, 0.0])

    page = browser.post(
        "/",
        {
            "words": WORDS,
            "liked": [str(liked.pk)],
            "disliked": [str(hidden_by_the_filter.pk)],
            "received_until": "2000-01-01",
        },
    ).content.decode()

    for name, image in (("liked", liked), ("disliked", hidden_by_the_filter)):
        assert f'name="{name}" value="{image.pk}" checked' in page
    assert "what you narrowed it down to" in page


def test_a_foreign_image_is_judged_by_nobody(browser: Client, collection: Collection) -> None:
    sealed = make_image(make_collection("sealed"), [1.0, 0.0, 0.0])
    missing = "00000000-0000-0000-0000-000000000001"

    answers = [
        browser.post("/", {"words": WORDS, "liked": [image_id]})
        for image_id in (sealed.pk, missing)
    ]

    assert {answer.status_code for answer in answers} == {403}
    pages = {re.sub(r'value="[^"]*"|nonce|token', "", a.content.decode()) for a in answers}
    assert len(pages) == 1


def test_copies_of_an_image_are_shown(browser: Client, collection: Collection) -> None:
    image = make_image(collection, [1.0, 0.0, 0.0])
    copy = make_image(collection, [1.0, 0.01, 0.0])
    other = make_image(collection, [0.0, 1.0, 0.0])

    page = browser.post("/", {"copies": str(image.pk)}).content.decode()

    assert str(copy.pk) in page
    assert str(other.pk) not in page


def test_reports_are_offered_where_one_may_read_some_and_searched_by_words_alone() -> None:
    without, with_some = Collection(pk=1, name="a"), Collection(pk=2, name="b", has_reports=True)

    def form(**asked: str) -> SearchForm:
        return SearchForm({"look_in": "reports", "words": "x"} | asked, readable=[with_some])

    assert "look_in" not in SearchForm(readable=[without]).fields
    asked = form()
    assert asked.is_valid()
    assert asked.query().look_in == "reports"
    assert not form(like=str(uuid4())).is_valid()
