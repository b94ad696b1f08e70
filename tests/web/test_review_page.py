"""The review queue's pages: what they show, to whom, and what they send on to the domain."""

import re
import uuid
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from retrieval import access
from retrieval.errors import Reason
from retrieval.models import (
    Collection,
    Image,
    Kind,
    Purpose,
    ReviewBox,
    Role,
    Source,
    Stage,
    State,
    User,
    Work,
)
from tests import database
from tests.factories import grant, make_collection, make_image, make_user, operator
from tests.web.conftest import Blocked, Log, jpeg, signed_in


@pytest.fixture
def reviewer(collection: Collection) -> User:
    user = make_user("reviewer")
    grant(user, collection, Role.REVIEWER)
    return user


@pytest.fixture
def client(reviewer: User) -> Client:
    return signed_in(reviewer)


def in_review(collection: Collection, **fields: Any) -> Image:
    values = {
        "state": State.REVIEW,
        "reason": Reason.FACE_STILL_FOUND,
        "render": 1,
        "width": 64,
        "height": 48,
        **fields,
    }
    return make_image(collection, preview=jpeg(), name="meier.jpg", **values)


@pytest.fixture
def image(collection: Collection) -> Image:
    return in_review(collection)


@pytest.fixture
def box(image: Image) -> ReviewBox:
    with database.role("worker"), access.processing(image.collection_id):
        return ReviewBox.objects.create(
            image=image,
            collection_id=image.collection_id,
            kind="text",
            box=[4, 5, 20, 10],
            corners=[4, 8, 20, 5, 24, 12, 8, 15],
            score=0.7,
            detector="test",
            source=Source.DETECTOR,
            render=1,
        )


def url(name: str, image: Image) -> str:
    return reverse(f"review_{name}", args=[image.pk])


def state_of(image: Image) -> str:
    with access.acting_as(operator(), Purpose.TREATMENT):
        return Image.objects.get(pk=image.pk).state


def boxes_of(image: Image) -> list[ReviewBox]:
    with access.acting_as(operator(), Purpose.TREATMENT):
        return list(ReviewBox.objects.filter(image=image))


def test_the_queue_shows_thumbnails_and_reasons_and_is_on_the_log(
    client: Client, image: Image, log: Log
) -> None:
    foreign = in_review(make_collection("sealed"))

    page = client.get("/review/").content.decode()

    assert "1 image<" in page
    assert "Face still found" in page
    assert str(foreign.pk) not in page
    (thumbnail,) = re.findall(r'src="(/images/[^"]*/thumbnail\?ticket=[^"]*)"', page)
    assert client.get(thumbnail).status_code == 200
    assert log(Kind.IMAGES_LISTED) == [{"images": [str(image.pk)], "subjects": []}]


def test_only_who_reviews_for_this_purpose_finds_the_way_to_the_queue(
    client: Client, image: Image, browser: Client, reviewer: User
) -> None:
    assert '"/review/"' in client.get("/").content.decode()
    assert '"/review/"' not in browser.get("/").content.decode()
    assert browser.get("/review/").status_code == 404
    grant(reviewer, make_collection(), Role.VIEWER, Purpose.RESEARCH)
    client.post("/purpose", {"purpose": Purpose.RESEARCH})

    assert client.get("/review/").status_code == 404
    assert client.get(url("case", image)).status_code == 404


def test_an_image_is_shown_covered_with_its_boxes_over_it(
    client: Client, image: Image, box: ReviewBox, log: Log
) -> None:
    page = client.get(url("case", image)).content.decode()

    assert f'href="{reverse("preview", args=[image.pk])}?render=1"' in page
    assert 'points="4,8 20,5 24,12 8,15" class="box text detector"' in page
    assert f'name="remove-{box.pk}"' in page
    assert "meier" not in page
    assert "style=" not in page
    assert log(Kind.IMAGE_VIEWED) == [{"form": "review", "image": str(image.pk), "subject": None}]


def test_boxes_are_drawn_and_taken_off_and_the_page_waits_for_the_new_picture(
    client: Client, image: Image, box: ReviewBox
) -> None:
    answer = client.post(
        url("boxes", image),
        {
            "render": "1",
            f"remove-{box.pk}": "not_text",
            "box": ["face 1 2 10 12", "code 30 20 8 8"],
            "kind": "text",
            "x": "0",
            "y": "0",
            "width": "5",
            "height": "6",
        },
    )

    assert (answer.status_code, answer.headers["Location"]) == (302, url("case", image))
    taken_off, *drawn = boxes_of(image)
    assert taken_off.removed_reason == "not_text"
    assert [(b.kind, b.box) for b in drawn] == [
        ("face", [1, 2, 10, 12]),
        ("code", [30, 20, 8, 8]),
        ("text", [0, 0, 5, 6]),
    ]
    page = client.get(url("case", image)).content.decode()
    assert 'http-equiv="refresh"' in page
    assert "preview?render" not in page
    assert 'value="release"' not in page


def test_who_took_a_cover_off_is_told_that_another_reviewer_releases(
    client: Client, image: Image, box: ReviewBox
) -> None:
    client.post(url("boxes", image), {"render": "1", f"remove-{box.pk}": "not_text"})
    with database.role("worker"), access.processing(image.collection_id):
        Work.objects.filter(image=image).delete()

    page = client.get(url("case", image)).content.decode()
    answer = client.post(url("decide", image), {"decision": "release", "render": "1"})

    assert 'value="release"' not in page
    assert "not writing (by " in page
    assert answer.status_code == 409
    assert "another reviewer" in answer.content.decode()


def test_what_is_no_box_or_no_reason_changes_nothing(
    client: Client, image: Image, box: ReviewBox
) -> None:
    for form in (
        {},
        {"box": "face 1 2 3"},
        {"box": "nose 1 2 3 4"},
        {"box": "face 1 2 3 1e3"},
        {"box": "face 1 2 3 99999999999"},
        {"kind": "face", "x": "1"},
        {f"remove-{box.pk}": "because"},
        {"remove-x": "other"},
        {"remove-999999999": "other"},
    ):
        answer = client.post(url("boxes", image), {"render": "1", **form})
        assert answer.status_code == 400, form
        assert 'role="alert"' in answer.content.decode()

    assert [b.removed_reason for b in boxes_of(image)] == [""]


def test_a_release_leads_on_to_the_next_image_and_a_rejection_back_to_the_queue(
    client: Client, collection: Collection, image: Image
) -> None:
    other = in_review(collection)

    answer = client.post(
        url("decide", image), {"decision": "release", "render": "1", "next": str(other.pk)}
    )
    assert answer.headers["Location"] == url("case", other)
    assert client.post(
        url("decide", other), {"decision": "reject", "render": "1", "next": ""}
    ).headers["Location"] == reverse("review")

    assert (state_of(image), state_of(other)) == (State.DEIDENTIFIED, State.REJECTED)


def test_who_comes_second_is_told_so_and_changes_nothing(client: Client, image: Image) -> None:
    for form in ({"render": "2"}, {"render": "0"}):
        answer = client.post(url("decide", image), {"decision": "release", **form})
        assert answer.status_code == 409
        assert "changed meanwhile" in answer.content.decode()
    assert client.post(url("decide", image), {"decision": "release"}).status_code == 400
    assert state_of(image) == State.REVIEW

    decision = {"decision": "release", "render": "1"}
    assert client.post(url("decide", image), decision).status_code == 302
    for answer in (
        client.post(url("decide", image), decision),
        client.post(url("decide", image), {"decision": "reject"}),
        client.post(url("boxes", image), {"render": "1", "box": "face 1 2 3 4"}),
        client.get(url("case", image)),
    ):
        assert answer.status_code == 409
        assert "not in review any more" in answer.content.decode()
    assert state_of(image) == State.DEIDENTIFIED


def test_an_image_whose_detector_failed_is_run_again_or_rejected_only(
    client: Client, collection: Collection
) -> None:
    image = in_review(collection, reason=Reason.DETECTOR_FAILED)

    page = client.get(url("case", image)).content.decode()

    assert 'value="release"' not in page
    assert 'name="x"' not in page
    client.post(url("decide", image), {"decision": "retry"})
    assert state_of(image) == State.RECEIVED
    with access.acting_as(operator(), Purpose.TREATMENT):
        assert Work.objects.get(image=image).stage == Stage.DEIDENTIFY


def test_foreign_and_missing_images_answer_alike_to_the_byte(client: Client, log: Log) -> None:
    foreign = in_review(make_collection("sealed"))
    form = {"decision": "release", "render": "1", "box": "face 1 2 3 4"}

    for name in ("case", "boxes", "decide"):
        answers = []
        for image_id in (foreign.pk, uuid.uuid4()):
            address = reverse(f"review_{name}", args=[image_id])
            answers.append(client.get(address) if name == "case" else client.post(address, form))
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].content == answers[1].content
        assert dict(answers[0].headers) == dict(answers[1].headers)
    assert len(log(Kind.IMAGE_DENIED)) == 6
    assert state_of(foreign) == State.REVIEW


def test_nothing_is_changed_by_looking_and_nothing_without_the_pages_own_token(
    client: Client, image: Image, reviewer: User
) -> None:
    strict = signed_in(reviewer, enforce_csrf_checks=True)
    for name in ("boxes", "decide"):
        assert client.get(url(name, image)).status_code == 405
        form = {"decision": "reject", "render": "1", "box": "face 1 2 3 4"}
        assert strict.post(url(name, image), form).status_code == 403

    assert (state_of(image), boxes_of(image)) == (State.REVIEW, [])


def test_a_look_that_cannot_be_recorded_is_not_given(
    client: Client, image: Image, log_blocked: Blocked
) -> None:
    with log_blocked():
        answers = [client.get(url("case", image)), client.get("/review/")]

    assert [answer.status_code for answer in answers] == [503, 503]
    assert all(str(image.pk) not in answer.content.decode() for answer in answers)
