import re
import uuid

import pytest
from django.test import Client
from django.urls import reverse

from retrieval import access
from retrieval.errors import Reason
from retrieval.models import Collection, Image, Kind, Purpose, Role, State, User, Work
from tests.factories import grant, make_collection, make_image, make_user, operator
from tests.web.conftest import Blocked, Log, jpeg, signed_in

LIST = "/admin/retrieval/image/"


def page_of(image: Image) -> str:
    return reverse("admin:retrieval_image_change", args=[image.pk])


def state_of(image: Image) -> str:
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        return Image.objects.get(pk=image.pk).state


def test_an_administrator_sees_no_image_by_being_one(
    browser: Client, collection: Collection
) -> None:
    image = make_image(collection, [1, 0, 0], preview=jpeg())

    assert str(image.pk) not in browser.get(LIST).content.decode()
    assert str(image.pk) not in browser.get("/admin/").content.decode()
    assert browser.get(page_of(image)).status_code == 404
    preview = reverse("admin:retrieval_image_preview", args=[image.pk])
    assert browser.get(preview).status_code == 404


def test_a_grant_for_another_purpose_opens_nothing_here(
    browser: Client, administrator: User, collection: Collection
) -> None:
    image = make_image(collection, [1, 0, 0])
    grant(administrator, collection, Role.OWNER, Purpose.TREATMENT)

    assert str(image.pk) not in browser.get(LIST).content.decode()


def test_foreign_and_missing_images_answer_alike_to_the_byte(
    browser: Client, collection: Collection, owner: User
) -> None:
    foreign = make_image(make_collection("sealed"), [1, 0, 0])

    for name in ("change", "preview", "thumbnail"):
        answers = [
            browser.get(reverse(f"admin:retrieval_image_{name}", args=[i]))
            for i in (foreign.pk, uuid.uuid4())
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].content == answers[1].content


def test_a_list_is_on_the_log_with_the_images_it_shows(
    browser: Client, collection: Collection, owner: User, log: Log
) -> None:
    image = make_image(collection, [1, 0, 0])
    make_image(make_collection("sealed"), [1, 0, 0])

    assert str(image.pk) in browser.get(LIST).content.decode()

    assert log(Kind.IMAGES_LISTED) == [{"images": [str(image.pk)], "subjects": []}]


def test_a_page_is_on_the_log(
    browser: Client, collection: Collection, owner: User, log: Log
) -> None:
    image = make_image(collection, [1, 0, 0])

    browser.get(page_of(image))

    (viewed,) = log(Kind.IMAGE_VIEWED)
    assert viewed == {"form": "administration", "image": str(image.pk), "subject": None}


def test_what_cannot_be_recorded_is_not_shown(
    browser: Client, collection: Collection, owner: User, log_blocked: Blocked
) -> None:
    image = make_image(collection, [1, 0, 0])

    with log_blocked():
        answers = [browser.get(LIST), browser.get(page_of(image))]

    for answer in answers:
        assert answer.status_code == 503
        assert str(image.pk) not in answer.content.decode()


def test_thumbnails_of_a_list_open_without_an_entry_of_their_own(
    browser: Client, collection: Collection, owner: User, log: Log
) -> None:
    make_image(collection, [1, 0, 0], preview=jpeg())
    page = browser.get(LIST).content.decode()
    (url,) = re.findall(r'src="([^"]*/thumbnail/\?ticket=[^"]*)"', page)

    assert browser.get(url).content == jpeg()
    assert browser.get(url.split("?")[0]).status_code == 404
    assert log(Kind.IMAGE_VIEWED) == []


@pytest.mark.parametrize("state", State)
def test_pictures_are_shown_only_of_indexed_images_and_of_those_one_reviews(
    collection: Collection, state: State
) -> None:
    image = make_image(collection, state=state, preview=jpeg())
    curator, reviewer = make_user(is_staff=True), make_user(is_staff=True)
    grant(curator, collection, Role.CURATOR, Purpose.ADMINISTRATION)
    grant(reviewer, collection, Role.REVIEWER, Purpose.ADMINISTRATION)
    preview = reverse("admin:retrieval_image_preview", args=[image.pk])

    for user, shown in (
        (curator, state == State.INDEXED),
        (reviewer, state in (State.INDEXED, State.REVIEW)),
    ):
        client = signed_in(user)
        assert (preview in client.get(page_of(image)).content.decode()) == shown
        assert ("thumbnail/?ticket" in client.get(LIST).content.decode()) == shown
        assert client.get(preview).status_code == (200 if shown else 404)


def test_source_names_are_shown_only_where_they_may_be_seen(collection: Collection) -> None:
    image = make_image(collection, [1, 0, 0], name="meier.jpg")
    viewer = make_user(is_staff=True)
    grant(viewer, collection, Role.VIEWER, Purpose.ADMINISTRATION)
    client = signed_in(viewer)
    assert "meier.jpg" not in client.get(page_of(image)).content.decode()

    grant(viewer, collection, Role.CURATOR, Purpose.ADMINISTRATION)
    assert "meier.jpg" in client.get(page_of(image)).content.decode()


def test_keys_hashes_and_vectors_are_on_no_page(
    browser: Client, collection: Collection, owner: User
) -> None:
    image = make_image(collection, [1, 0, 0])

    fields = browser.get(page_of(image)).context["adminform"].fields

    assert not {"content_key", "wrapped_key", "sealed_name", "subject"} & set(fields)
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        stored = Image.objects.get(pk=image.pk)
    text = browser.get(page_of(image)).content.decode()
    for secret in (stored.wrapped_key, stored.content_key, stored.sealed_name):
        assert bytes(secret).hex() not in text


def test_a_list_names_no_collection_without_a_grant(
    browser: Client, collection: Collection, owner: User
) -> None:
    make_collection("sealed")

    page = browser.get(LIST).content.decode()

    assert "ward photographs" in page
    assert "sealed" not in page


def test_a_reviewer_releases_from_the_images_page(
    browser: Client, collection: Collection, owner: User
) -> None:
    image = make_image(collection, state=State.REVIEW, reason=Reason.FACE_STILL_FOUND, render=2)
    url = reverse("admin:retrieval_image_decide", args=[image.pk])
    assert 'name="render" value="2"' in browser.get(page_of(image)).content.decode()

    for unseen in ({}, {"render": "1"}, {"render": "²"}):
        browser.post(url, {"decision": "release", **unseen})
    assert state_of(image) == State.REVIEW

    browser.post(url, {"decision": "release", "render": "2"})
    assert state_of(image) == State.DEIDENTIFIED


def test_nothing_is_released_from_the_list_where_nobody_looked_closely(
    browser: Client, collection: Collection, owner: User
) -> None:
    image = make_image(collection, state=State.REVIEW, reason=Reason.FACE_STILL_FOUND, render=1)

    browser.post(LIST, {"action": "release", "_selected_action": [str(image.pk)], "render": "1"})

    assert state_of(image) == State.REVIEW


def test_several_images_are_decided_about_from_the_list(
    browser: Client, collection: Collection, owner: User
) -> None:
    images = [
        make_image(collection, state=State.REVIEW, reason=Reason.FACE_STILL_FOUND) for _ in range(2)
    ]
    sealed = make_image(make_collection("sealed"), state=State.REVIEW)

    chosen = [str(image.pk) for image in [*images, sealed]]
    browser.post(LIST, {"action": "reject", "_selected_action": chosen})

    assert [state_of(image) for image in images] == [State.REJECTED, State.REJECTED]
    assert state_of(sealed) == State.REVIEW


def test_what_was_given_up_is_retried_from_the_list(
    browser: Client, collection: Collection, owner: User
) -> None:
    image = make_image(collection, state=State.QUARANTINED, reason=Reason.THREE_STRIKES)

    browser.post(LIST, {"action": "retry", "_selected_action": [str(image.pk)]})

    assert state_of(image) == State.RECEIVED
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        assert Work.objects.filter(image=image).count() == 1


def test_an_image_whose_detector_failed_shows_no_button_to_release_it(
    browser: Client, collection: Collection, owner: User
) -> None:
    image = make_image(collection, state=State.REVIEW, reason=Reason.DETECTOR_FAILED)

    page = browser.get(page_of(image)).content.decode()

    assert 'value="release"' not in page
    assert 'value="retry"' in page
    assert 'value="reject"' in page


def test_images_are_neither_added_nor_changed_nor_deleted_by_hand(
    browser: Client, collection: Collection, owner: User
) -> None:
    image = make_image(collection, [1, 0, 0])

    assert browser.get(f"{LIST}add/").status_code in (403, 404)
    assert browser.post(page_of(image), {"state": State.REJECTED}).status_code == 403
    delete = reverse("admin:retrieval_image_delete", args=[image.pk])
    assert browser.post(delete, {"post": "yes"}).status_code in (302, 403, 404)
    assert state_of(image) == State.INDEXED
