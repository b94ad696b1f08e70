import re
from typing import Any

import pytest
from django.test import Client
from django.urls import get_resolver, reverse

from appliance.web.middleware import BEFORE_THE_DIRECTORY
from retrieval.models import Kind, Purpose, Role, User
from tests.factories import grant, make_collection, make_user, pass_second_factor
from tests.web.conftest import Blocked, Log, signed_in

pytestmark = pytest.mark.usefixtures("db")

PASSWORD = "correct horse battery"
NEW = "a staple for the battery"


def test_signing_in_and_out_is_on_the_log(log: Log) -> None:
    user = make_user("ben")
    client = Client()

    answer = client.post(reverse("sign_in"), {"username": "ben", "password": PASSWORD})
    assert answer.headers["Location"] == reverse("search")
    client.post(reverse("sign_out"))

    assert len(log(Kind.SIGNED_IN)) == len(log(Kind.SIGNED_OUT)) == 1
    assert "_auth_user_id" not in client.session
    assert user.pk


def test_a_failed_sign_in_is_on_the_log_without_the_name(log: Log) -> None:
    make_user("ben")

    answer = Client().post(reverse("sign_in"), {"username": "ben", "password": "wrong"})

    assert answer.status_code == 200
    (entry,) = log(Kind.SIGN_IN_FAILED)
    assert set(entry) == {"name"}
    assert "ben" not in entry["name"]


def test_nobody_is_signed_in_while_the_log_cannot_be_written(log_blocked: Blocked) -> None:
    make_user("ben")
    client = Client(raise_request_exception=False)

    with log_blocked():
        answer = client.post(reverse("sign_in"), {"username": "ben", "password": PASSWORD})

    assert answer.status_code == 503
    assert "_auth_user_id" not in client.session


def own_patterns() -> list[Any]:
    (pages,) = [
        p
        for p in get_resolver().url_patterns
        if hasattr(p, "url_patterns") and str(p.pattern) == ""
    ]
    return pages.url_patterns


@pytest.mark.parametrize(
    "pattern",
    sorted(
        str(p.pattern)
        for p in own_patterns()
        if p.name not in BEFORE_THE_DIRECTORY or p.name == "sign_out"
    ),
)
def test_no_page_opens_without_signing_in(pattern: str) -> None:
    nobodys = "00000000-0000-0000-0000-000000000000"
    url = f"/{re.sub('<uuid:[a-z_]+>', nobodys, pattern)}"

    for answer in (Client().get(url), Client().post(url)):
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith(reverse("sign_in"))


def test_the_administration_has_no_door_of_its_own() -> None:
    answer = Client().get("/admin/", follow=True)

    assert answer.redirect_chain[-1][0].startswith(reverse("sign_in"))


@pytest.fixture
def newcomer() -> User:
    user = make_user("newcomer", must_change_password=True, is_staff=True, is_superuser=True)
    grant(user, make_collection(), Role.SEARCHER)
    return user


@pytest.mark.parametrize("url", ["/", "/admin/", "/admin/retrieval/image/", "/admin/login/"])
def test_a_handed_out_password_opens_nothing_but_the_page_to_change_it(
    newcomer: User, url: str
) -> None:
    client = signed_in(newcomer)

    for answer in (client.get(url), client.post(url, {"words": "x"})):
        if url == "/admin/login/":
            assert answer.headers["Location"].startswith(reverse("sign_in"))
        else:
            assert answer.headers["Location"] == reverse("change_password")


def test_after_the_change_everything_opens_and_the_change_is_on_the_log(
    newcomer: User, log: Log
) -> None:
    client = signed_in(newcomer)
    form = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}

    client.post(reverse("change_password"), form)
    newcomer.refresh_from_db()
    pass_second_factor(client, newcomer)

    assert client.get("/").status_code == 200
    newcomer.refresh_from_db()
    assert newcomer.check_password(NEW)
    assert log(Kind.USER_CHANGED) == [{"change": "own password", "user": newcomer.pk}]


def test_the_handed_out_password_is_not_taken_again(newcomer: User) -> None:
    form = {"old_password": PASSWORD, "new_password1": PASSWORD, "new_password2": PASSWORD}

    signed_in(newcomer).post(reverse("change_password"), form)

    newcomer.refresh_from_db()
    assert newcomer.must_change_password


def test_only_granted_purposes_can_be_declared(browser: Client, reader: User) -> None:
    offered = browser.get("/").content.decode()
    assert Purpose.TREATMENT.label in offered
    assert Purpose.RESEARCH.label not in offered

    browser.post(reverse("purpose"), {"purpose": Purpose.RESEARCH})
    assert browser.session["purpose"] == Purpose.TREATMENT

    grant(reader, make_collection(), Role.SEARCHER, Purpose.RESEARCH)
    browser.post(reverse("purpose"), {"purpose": Purpose.RESEARCH})
    assert browser.session["purpose"] == Purpose.RESEARCH
