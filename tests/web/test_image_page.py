import re
import time
import uuid
from typing import Any
from unittest import mock

import pytest
from django.test import Client
from django.urls import reverse

from appliance.web import ticket
from appliance.web.views.image import is_small
from retrieval import storage
from retrieval.models import Collection, Grant, Image, Kind, Purpose, Role, State, User
from retrieval.storage import Form
from tests.factories import grant, make_collection, make_image, make_user
from tests.web.conftest import Blocked, Log, jpeg, signed_in

pytestmark = pytest.mark.usefixtures("encoder_answers")


@pytest.fixture
def image(collection: Collection) -> Image:
    return make_image(collection, [1.0, 0.0, 0.0], name="meier.jpg", preview=jpeg())


def thumbnails(client: Client, **query: str) -> list[str]:
    page = client.post("/", query or {"words": "anything"}).content.decode()
    return re.findall(r'src="(/images/[^"]*/thumbnail\?ticket=[^"]*)"', page)


def test_looking_at_an_image_is_on_the_log(browser: Client, image: Image, log: Log) -> None:
    browser.get(reverse("image", args=[image.pk]))
    browser.get(reverse("preview", args=[image.pk]))

    assert log(Kind.IMAGE_VIEWED) == [
        {"form": "page", "image": str(image.pk), "subject": None},
        {"form": "preview", "image": str(image.pk), "subject": None},
    ]


@pytest.mark.parametrize("name", ["image", "preview"])
def test_a_look_that_cannot_be_recorded_is_not_given(
    browser: Client, image: Image, log_blocked: Blocked, name: str
) -> None:
    began = time.monotonic()
    with log_blocked():
        answer = browser.get(reverse(name, args=[image.pk]))

    assert answer.status_code == 503
    assert "image/jpeg" not in answer.headers["Content-Type"]
    assert str(image.pk) not in answer.content.decode()
    # The log is given four seconds; the rest is what a busy test machine takes.
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["image", "preview", "thumbnail"])
def test_foreign_and_missing_images_answer_alike_to_the_byte(
    browser: Client, image: Image, log: Log, name: str
) -> None:
    foreign = make_image(make_collection("sealed"), [1.0, 0.0, 0.0], preview=jpeg())

    answers = [browser.get(reverse(name, args=[i])) for i in (foreign.pk, uuid.uuid4())]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].content == answers[1].content
    assert dict(answers[0].headers) == dict(answers[1].headers)
    if name != "thumbnail":
        assert log(Kind.IMAGE_DENIED)[0] == {"image": str(foreign.pk)}


@pytest.mark.parametrize("name", ["image", "preview"])
@pytest.mark.parametrize("state", sorted(set(State) - {State.INDEXED}))
def test_only_indexed_images_are_shown(
    browser: Client, collection: Collection, name: str, state: State
) -> None:
    image = make_image(collection, state=state, preview=jpeg())

    assert browser.get(reverse(name, args=[image.pk])).status_code == 404


@pytest.mark.parametrize("state", State)
def test_a_reviewer_sees_what_is_in_review_and_nothing_before(
    collection: Collection, state: State
) -> None:
    reviewer = make_user()
    grant(reviewer, collection, Role.REVIEWER)
    image = make_image(collection, state=state, preview=jpeg())

    answer = signed_in(reviewer).get(reverse("preview", args=[image.pk]))

    shown = state in (State.INDEXED, State.REVIEW)
    assert answer.status_code == (200 if shown else 404)


@pytest.mark.parametrize(
    ("width", "height", "enlarged"),
    [
        (128, 128, True),
        (180, 360, True),
        (40, 300, False),
        (999, 999, False),
        (None, None, False),
    ],
)
def test_a_small_picture_is_shown_enlarged_and_a_strip_is_not(
    width: int | None, height: int | None, enlarged: bool
) -> None:
    assert is_small(Image(width=width, height=height)) == enlarged


def test_pictures_are_the_deidentified_ones_and_no_cache_keeps_them(
    browser: Client, image: Image
) -> None:
    storage.write_bytes(image, Form.ORIGINAL, b"the original")

    answer = browser.get(reverse("preview", args=[image.pk]))

    assert answer.content == jpeg()
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_tells_the_source_only_to_who_may_see_names(
    browser: Client, image: Image, reader: User
) -> None:
    url = reverse("image", args=[image.pk])
    assert "meier.jpg" not in browser.get(url).content.decode()

    grant(reader, image.collection, Role.CURATOR)
    assert "meier.jpg" in browser.get(url).content.decode()


def test_another_purpose_than_the_granted_one_opens_nothing(
    browser: Client, image: Image, reader: User
) -> None:
    grant(reader, make_collection(), Role.SEARCHER, Purpose.RESEARCH)
    browser.post(reverse("purpose"), {"purpose": Purpose.RESEARCH})

    assert browser.get(reverse("image", args=[image.pk])).status_code == 404


def test_a_thumbnail_opens_with_the_ticket_of_a_recorded_answer_only(
    browser: Client, image: Image, log: Log
) -> None:
    (url,) = thumbnails(browser)

    assert browser.get(url).content == jpeg()
    assert browser.get(url.split("?")[0]).status_code == 404
    assert browser.get(url + "x").status_code == 404
    # It is on the log through the answer that showed it.
    assert log(Kind.SEARCH_SERVED)[0]["images"] == [str(image.pk)]
    assert log(Kind.IMAGE_VIEWED) == []


def test_a_ticket_opens_no_other_image(
    browser: Client, image: Image, collection: Collection
) -> None:
    (url,) = thumbnails(browser)
    other = make_image(collection, [0.0, 1.0, 0.0], preview=jpeg())

    assert browser.get(url.replace(str(image.pk), str(other.pk))).status_code == 404


def test_a_ticket_is_good_for_its_user_and_session_only(
    browser: Client, image: Image, reader: User, collection: Collection
) -> None:
    (url,) = thumbnails(browser)
    colleague = make_user()
    grant(colleague, collection, Role.SEARCHER)

    assert signed_in(colleague).get(url).status_code == 404
    assert signed_in(reader).get(url).status_code == 404


def test_a_ticket_is_good_for_its_purpose_only(
    browser: Client, image: Image, reader: User, collection: Collection
) -> None:
    grant(reader, collection, Role.SEARCHER, Purpose.RESEARCH)
    (url,) = thumbnails(browser)

    browser.post(reverse("purpose"), {"purpose": Purpose.RESEARCH})

    assert browser.get(url).status_code == 404


def test_a_ticket_lapses(browser: Client, image: Image) -> None:
    (url,) = thumbnails(browser)
    later = time.time() + ticket.LIFETIME_S + 1

    with mock.patch("django.core.signing.time.time", return_value=later):
        answer = browser.get(url)

    assert answer.status_code == 404


def test_a_ticket_opens_nothing_once_the_grant_is_gone(
    browser: Client, image: Image, reader: User
) -> None:
    (url,) = thumbnails(browser)
    Grant.objects.filter(user=reader).delete()

    assert browser.get(url).status_code == 404


def test_a_frames_page_says_when_it_is_in_its_video(
    browser: Client, collection: Collection
) -> None:
    video = make_image(collection, state=State.SPLIT)
    times: dict[str, Any] = {"starts_at_s": 12.0, "frame_at_s": 15.0, "ends_at_s": 18.4}
    frame = make_image(collection, [1.0, 0.0, 0.0], preview=jpeg(), video=video, **times)

    assert "0:12–0:18" in browser.get(reverse("image", args=[frame.pk])).content.decode()
    assert "0:12–0:18" in browser.post("/", {"words": "anything"}).content.decode()
    assert browser.get(reverse("image", args=[video.pk])).status_code == 404


def test_a_curator_tags_an_image_and_the_log_says_how_many_never_which(
    browser: Client, image: Image, reader: User, log: Log
) -> None:
    grant(reader, image.collection, Role.CURATOR)

    answer = browser.post(
        reverse("image_tags", args=[image.pk]), {"tags": "left knee, follow-up,, left knee"}
    )

    assert answer.status_code == 302
    assert "left knee, follow-up" in browser.get(answer.headers["Location"]).content.decode()
    assert log(Kind.IMAGE_TAGGED) == [{"image": str(image.pk), "tags": 2}]


def test_who_may_only_search_tags_nothing(browser: Client, image: Image, log: Log) -> None:
    answer = browser.post(reverse("image_tags", args=[image.pk]), {"tags": "mine"})

    assert answer.status_code == 404
    assert "Keep tags" not in browser.get(reverse("image", args=[image.pk])).content.decode()
    assert len(log(Kind.IMAGE_DENIED)) == 1


@pytest.mark.parametrize("tags", ["x" * 65, ",".join(map(str, range(33))), "a\0b", "a\nb"])
def test_tags_out_of_bounds_are_refused(
    browser: Client, image: Image, reader: User, tags: str
) -> None:
    grant(reader, image.collection, Role.CURATOR)

    answer = browser.post(reverse("image_tags", args=[image.pk]), {"tags": tags})

    assert answer.status_code == 400
