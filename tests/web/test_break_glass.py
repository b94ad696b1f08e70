"""The page of an emergency, the officer's pages, and original pixels."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from appliance.directory import oidc
from appliance.web import second_factor
from appliance.web.views.break_glass import PROVIDER_BACKEND
from retrieval import break_glass, queue, storage
from retrieval.errors import AccessDenied
from retrieval.models import Collection, Image, Kind, Purpose, Role, User, Verdict
from retrieval.storage import Form
from tests import database
from tests.factories import enrol, enrol_now, grant, make_image, make_user, pass_second_factor
from tests.web.conftest import Blocked, Log, Superuser, jpeg, signed_in
from workers import originals

pytestmark = pytest.mark.usefixtures("encoder_answers")

REASON = "The patient in room four does not answer."
PASSWORD = "correct horse battery"


@pytest.fixture
def image(collection: Collection) -> Image:
    image = make_image(collection, [1.0, 0.0, 0.0], preview=jpeg())
    storage.write_bytes(image, Form.ORIGINAL, jpeg((200, 30, 30)))
    return image


@pytest.fixture
def physician(collection: Collection) -> User:
    physician = make_user("physician")
    enrol(physician)
    return physician


@pytest.fixture
def at_the_bedside(physician: User) -> Client:
    """Signed in, with a second factor shown just now."""
    client = signed_in(physician)
    pass_second_factor(client, physician)
    return client


@pytest.fixture
def officer(db: None) -> User:
    officer = make_user("officer", is_staff=True)
    officer.user_permissions.add(Permission.objects.get(codename="review_breakglass"))
    enrol(officer)
    return officer


@pytest.fixture
def worker_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worker's own function, in its role; what is between is the broker."""

    def ask(_task: str, arguments: list[Any], *, timeout_s: float) -> bytes:
        with database.role("worker"):
            return originals.shown(*arguments)

    with mock.patch.object(queue, "ask", ask):
        yield


def send(client: Client, target: Collection, **changed: str) -> Any:
    form = {"collection": target.name, "reason": REASON, "password": PASSWORD}
    return client.post(reverse("break_glass"), form | changed)


def test_a_reason_and_a_second_sign_in_open_a_collection_for_emergencies(
    at_the_bedside: Client, collection: Collection, image: Image, log: Log
) -> None:
    assert at_the_bedside.post("/", {"words": "anything"}).status_code == 403

    answer = send(at_the_bedside, collection)

    assert answer.status_code == 302
    assert str(image.pk) in at_the_bedside.post("/", {"words": "anything"}).content.decode()
    assert at_the_bedside.get(reverse("preview", args=[image.pk])).status_code == 200
    assert len(log(Kind.GLASS_BROKEN)) == 1


def test_who_set_up_the_second_factor_just_now_is_told_why_nothing_opens(
    collection: Collection,
) -> None:
    """In the very session in which the password was shown, by whoever found it."""
    stranger = make_user()
    User.objects.filter(pk=stranger.pk).update(date_joined=timezone.now() - timedelta(days=2))
    client = signed_in(stranger)
    client.post("/second-factor", {"code": enrol_now(stranger)[0]})

    answer = send(client, collection)

    assert answer.status_code == 403
    assert "less than a day ago" in answer.content.decode()


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"password": "wrong"}, 403),
        ({"collection": "no such ward"}, 403),
        ({"reason": ""}, 400),
        ({"password": ""}, 400),
    ],
)
def test_without_all_of_it_nothing_is_opened(
    at_the_bedside: Client,
    collection: Collection,
    changed: dict[str, str],
    status: int,
    superuser: Superuser,
) -> None:
    assert send(at_the_bedside, collection, **changed).status_code == status
    assert superuser.execute("SELECT count(*) FROM retrieval_breakglass").fetchone() == (0,)


def test_a_wrong_password_and_a_missing_collection_are_not_told_apart(
    at_the_bedside: Client, collection: Collection
) -> None:
    pages = [
        send(at_the_bedside, collection, password="wrong", collection="x"),
        send(at_the_bedside, collection, collection="x"),
    ]

    bodies = [re.sub(r'name="csrfmiddlewaretoken".*?>', "", p.content.decode()) for p in pages]
    assert bodies[0] == bodies[1]


def test_without_a_fresh_second_factor_the_page_asks_for_one_first(
    physician: User, collection: Collection, at_the_bedside: Client
) -> None:
    page = reverse("break_glass")
    only_password = Client()
    only_password.force_login(make_user())
    session = at_the_bedside.session
    session[second_factor.PASSED_AT] -= 301
    session.save()

    for client in (only_password, at_the_bedside):
        for answer in (client.get(page), send(client, collection)):
            assert answer.status_code == 302
            assert answer["Location"].startswith("/second-factor")
    assert break_glass.open_to(physician) == []


def test_guessing_passwords_here_is_locked_out(
    at_the_bedside: Client, physician: User, collection: Collection
) -> None:
    for _ in range(5):
        send(at_the_bedside, collection, password="wrong")

    assert send(at_the_bedside, collection).status_code in (403, 429)
    assert break_glass.open_to(physician) == []


def test_who_signs_in_at_a_provider_shows_the_second_factor_alone(
    at_the_bedside: Client, physician: User, collection: Collection
) -> None:
    assert f"{oidc.Backend.__module__}.{oidc.Backend.__name__}" == PROVIDER_BACKEND
    session = at_the_bedside.session
    session[BACKEND_SESSION_KEY] = PROVIDER_BACKEND
    session.save()

    assert 'type="password"' not in at_the_bedside.get(reverse("break_glass")).content.decode()
    assert send(at_the_bedside, collection, password="").status_code == 302
    assert len(break_glass.open_to(physician)) == 1


def test_nothing_opens_while_the_log_is_closed(
    at_the_bedside: Client, collection: Collection, superuser: Superuser, log_blocked: Blocked
) -> None:
    with log_blocked():
        assert send(at_the_bedside, collection).status_code == 503
    assert superuser.execute("SELECT count(*) FROM retrieval_breakglass").fetchone() == (0,)


def test_it_is_closed_before_its_time_on_the_page(
    at_the_bedside: Client, physician: User, collection: Collection, image: Image
) -> None:
    send(at_the_bedside, collection)
    (broken,) = break_glass.open_to(physician)
    url = reverse("close_glass", args=[broken.pk])

    assert signed_in(make_user()).post(url).status_code == 404
    assert at_the_bedside.post(url).status_code == 302
    assert at_the_bedside.get(reverse("image", args=[image.pk])).status_code == 404


def test_the_officer_sees_a_badge_until_somebody_else_reviewed(
    officer: User, physician: User, collection: Collection, log: Log
) -> None:
    broken = break_glass.break_glass(collection.name, reason=REASON, actor=physician)
    desk = signed_in(officer)
    url = reverse("admin:retrieval_breakglass_change", args=[broken.pk])

    assert 'class="badge">1<' in desk.get("/").content.decode()
    assert "Break-glass to review: 1" in desk.get("/admin/").content.decode()
    assert "waits for a second person" in desk.get("/admin/retrieval/breakglass/").content.decode()
    assert "room four" in desk.get(url).content.decode()
    assert log(Kind.GLASS_READ)[-1] == {"break_glass": [str(broken.pk)]}
    assert "badge" not in signed_in(physician).get("/").content.decode()

    desk.post(reverse("admin:retrieval_breakglass_review", args=[broken.pk]), {"verdict": "x"})
    assert break_glass.count_unreviewed(officer) == 1
    form = {"verdict": Verdict.JUSTIFIED.value}
    desk.post(reverse("admin:retrieval_breakglass_review", args=[broken.pk]), form)

    assert break_glass.count_unreviewed(officer) == 0
    assert "badge" not in desk.get("/").content.decode()


def test_nobody_else_reads_the_reasons(physician: User, collection: Collection) -> None:
    broken = break_glass.break_glass(collection.name, reason=REASON, actor=physician)
    clerk = signed_in(make_user(is_staff=True))

    for url in ("/admin/retrieval/breakglass/", f"/admin/retrieval/breakglass/{broken.pk}/change/"):
        answer = clerk.get(url)
        assert answer.status_code in (302, 403)
        assert b"room four" not in answer.content


def test_an_officer_does_not_review_what_was_opened_by_the_same_hand(
    officer: User, collection: Collection
) -> None:
    broken = break_glass.break_glass(collection.name, reason=REASON, actor=officer)
    desk = signed_in(officer)

    desk.post(
        reverse("admin:retrieval_breakglass_review", args=[broken.pk]), {"verdict": "justified"}
    )

    assert signed_in(officer).get("/").status_code == 200
    assert break_glass.open_to(officer)[0].verdict == ""


@pytest.mark.usefixtures("worker_answers")
def test_original_pixels_are_shown_to_who_broke_the_glass_for_them_and_recorded(
    at_the_bedside: Client,
    physician: User,
    collection: Collection,
    image: Image,
    log: Log,
) -> None:
    grant(physician, collection, Role.OWNER, *Purpose)
    url = reverse("original", args=[image.pk])
    assert at_the_bedside.get(url).status_code == 404
    send(at_the_bedside, collection)
    assert at_the_bedside.get(url).status_code == 404
    assert "Original pixels, in an emergency" in _page(at_the_bedside, image)

    send(at_the_bedside, collection, originals="on")

    answer = at_the_bedside.get(url)
    assert answer.status_code == 200
    assert answer.content.startswith(b"\xff\xd8")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert url in _page(at_the_bedside, image)
    assert log(Kind.IMAGE_VIEWED)[-2] == {
        "form": "original",
        "image": str(image.pk),
        "subject": None,
    }
    at_the_bedside.post("/purpose", {"purpose": "TREAT"})
    assert at_the_bedside.get(url).status_code == 404


def test_the_page_knows_which_collection_an_image_is_of_for_who_may_see_it(
    at_the_bedside: Client, image: Image, collection: Collection
) -> None:
    reader = make_user()
    grant(reader, collection)
    browser = signed_in(reader)
    pass_second_factor(browser, reader)
    url = f"{reverse('break_glass')}?image={image.pk}"

    assert collection.name in browser.get(url).content.decode()
    assert collection.name not in at_the_bedside.get(url).content.decode()


def test_a_worker_asks_the_database_before_it_shows_an_original(
    image: Image, physician: User, superuser: Superuser
) -> None:
    arguments = (physician.pk, image.collection_id, str(image.pk))
    with database.role("worker"), pytest.raises(AccessDenied):
        originals.shown(*arguments)
    break_glass.break_glass(image.collection.name, reason=REASON, actor=physician, originals=True)

    with database.role("worker"):
        assert originals.shown(*arguments).startswith(b"\n\xff\xd8")
    superuser.execute("UPDATE retrieval_breakglass SET closed_at = now()")
    with database.role("worker"), pytest.raises(AccessDenied):
        originals.shown(*arguments)


def test_what_cannot_be_decoded_has_no_original_to_show(
    image: Image, at_the_bedside: Client, collection: Collection, worker_answers: None
) -> None:
    storage.write_bytes(image, Form.ORIGINAL, b"no picture at all")
    send(at_the_bedside, collection, originals="on")

    assert at_the_bedside.get(reverse("original", args=[image.pk])).status_code == 404


def test_the_answer_passes_through_the_broker_sealed(
    services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes | str] = []

    def send_task(_name: str, args: list[str], **_options: Any) -> None:
        queue.answer(args[0], b"pixels")
        seen.extend(queue._broker().lrange(args[0], 0, -1))

    monkeypatch.setattr(queue.app, "send_task", send_task)

    assert queue.ask("show_original", [1, 2, "3"], timeout_s=5) == b"pixels"
    assert seen
    assert b"pixels" not in bytes(seen[0])  # type: ignore[arg-type]


def _page(client: Client, image: Image) -> str:
    return client.get(reverse("image", args=[image.pk])).content.decode()
