from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_network
from typing import Any
from unittest import mock

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.test import Client, RequestFactory
from django.utils import timezone

from appliance.web import lockout
from appliance.web.address import client_address
from retrieval.models import Kind
from tests.factories import make_user
from tests.web.conftest import Log, Superuser, signed_in

pytestmark = pytest.mark.usefixtures("db")

PASSWORD, WRONG = "correct horse battery", "wrong"
PER_ADDRESS = lockout.MOST_FAILURES["username", "ip_address"]


def tried(name: str, password: str = WRONG, address: str = "192.0.2.1") -> Any:
    form = {"username": name, "password": password}
    return Client(REMOTE_ADDR=address).post("/sign-in", form)


def fail(name: str, times: int, address: str = "192.0.2.1") -> None:
    """As that many wrong passwords would leave it, without their time."""
    AccessAttempt.objects.create(
        username=lockout.username(RequestFactory().get("/"), {"username": name}),
        ip_address=address,
        failures_since_start=times,
    )


def test_after_five_wrong_passwords_the_right_one_is_not_looked_at(log: Log) -> None:
    make_user("ben")
    for _ in range(PER_ADDRESS - 1):
        assert tried("ben").status_code == 200
    assert tried("BEN").status_code == 429

    answer = tried("ben", PASSWORD)

    assert answer.status_code == 429
    assert "Too many wrong tries" in answer.content.decode()
    assert len(log(Kind.SIGN_IN_FAILED)) == PER_ADDRESS - 1
    assert [set(entry) for entry in log(Kind.SIGN_IN_LOCKED)] == [{"name", "count"}] * 2


def test_who_guesses_the_old_password_to_set_a_new_one_is_locked_out(log: Log) -> None:
    ben = make_user("ben")
    browser = signed_in(ben)
    new = {"new_password1": "a staple for the battery", "new_password2": "a staple for the battery"}
    for _ in range(PER_ADDRESS):
        browser.post("/password", {"old_password": WRONG, **new})

    assert browser.post("/password", {"old_password": PASSWORD, **new}).status_code == 429
    ben.refresh_from_db()
    assert ben.check_password(PASSWORD)
    assert len(log(Kind.SIGN_IN_FAILED)) == PER_ADDRESS + 1


def test_the_lock_is_the_same_for_accounts_that_do_not_exist() -> None:
    make_user("ben")
    fail("ben", PER_ADDRESS)
    fail("nobody", PER_ADDRESS)

    pages = [tried(name).content.decode() for name in ("ben", "nobody")]
    without_token = {page.split("csrfmiddlewaretoken")[0] for page in pages}

    assert len(without_token) == 1
    assert len({page.rpartition("csrfmiddlewaretoken")[2][100:] for page in pages}) == 1


def test_the_lock_opens_after_a_quarter_of_an_hour_and_trying_does_not_lengthen_it() -> None:
    make_user("ben")
    fail("ben", PER_ADDRESS)
    assert tried("ben").status_code == 429
    assert AccessAttempt.objects.get().failures_since_start == PER_ADDRESS

    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=15, seconds=1))

    assert tried("ben", PASSWORD).status_code == 302


def test_one_name_guessed_from_many_addresses_is_locked_everywhere() -> None:
    make_user("ben")
    for number in range(lockout.MOST_FAILURES[("username",)]):
        fail("ben", 1, f"198.51.100.{number}")

    assert tried("ben", PASSWORD, "203.0.113.9").status_code == 429


def test_one_address_that_tries_everybody_is_locked() -> None:
    make_user("ben")
    for number in range(lockout.MOST_FAILURES[("ip_address",)] // 4):
        fail(f"user-{number}", 4)

    assert tried("ben", PASSWORD).status_code == 429
    assert tried("ben", PASSWORD, "203.0.113.9").status_code == 302


def test_signing_in_forgets_the_own_failures_and_nobody_elses() -> None:
    make_user("ben")
    fail("ben", PER_ADDRESS - 1)
    fail("ada", PER_ADDRESS - 1)

    assert tried("ben", PASSWORD).status_code == 302

    assert AccessAttempt.objects.get().failures_since_start == PER_ADDRESS - 1
    assert tried("ada").status_code == 429


def test_what_was_typed_is_kept_nowhere(superuser: Superuser) -> None:
    make_user("ben")
    Client(HTTP_USER_AGENT="a browser").post(
        "/sign-in?next=/images/1", {"username": "my-password", "password": "hunter2 hunter2"}
    )

    (row,) = superuser.execute("SELECT a::text FROM axes_accessattempt a").fetchall()
    for typed in ("my-password", "hunter2", "images", "browser"):
        assert typed not in str(row[0])


@pytest.fixture
def hashed() -> Iterator[list[int]]:
    """How many times a password is hashed: what a sign-in's time is made of."""
    counted: list[int] = []
    real = Argon2PasswordHasher.encode, Argon2PasswordHasher.verify

    def counting(function: Any) -> Any:
        def count(*arguments: Any, **named: Any) -> Any:
            counted.append(1)
            return function(*arguments, **named)

        return count

    with (
        mock.patch.object(Argon2PasswordHasher, "encode", counting(real[0])),
        mock.patch.object(Argon2PasswordHasher, "verify", counting(real[1])),
    ):
        yield counted


def test_an_unknown_a_closed_and_a_known_account_take_the_same_work(hashed: list[int]) -> None:
    make_user("ben")
    make_user("gone", is_active=False)
    work = []
    for name in ("ben", "nobody", "gone"):
        hashed.clear()
        tried(name)
        work.append(len(hashed))

    assert work == [1, 1, 1]


def test_an_unknown_and_a_known_account_answer_alike() -> None:
    make_user("ben")

    pages = [tried(name).content.decode() for name in ("ben", "nobody")]

    assert len({page.split("csrfmiddlewaretoken")[0] for page in pages}) == 1


@pytest.mark.parametrize(
    ("nearest", "forwarded", "expected"),
    [
        ("192.0.2.7", "203.0.113.1", "192.0.2.7"),
        ("10.0.0.1", "203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", "203.0.113.1, 10.0.0.2", "203.0.113.1"),
        ("10.0.0.1", "203.0.113.1, <script>", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("", "203.0.113.1", None),
    ],
)
def test_an_address_is_what_trusted_proxies_say_and_nobody_else(
    nearest: str, forwarded: str, expected: str | None, settings: Any
) -> None:
    settings.CLOISTER_TRUSTED_PROXIES = [ip_network("10.0.0.0/24")]
    headers = {"REMOTE_ADDR": nearest, "HTTP_X_FORWARDED_FOR": forwarded}

    assert client_address(RequestFactory().get("/", **headers)) == expected  # type: ignore[arg-type]
