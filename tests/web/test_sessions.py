import os
import subprocess
import sys
from datetime import timedelta

import pytest
from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore as Plain
from django.db import ProgrammingError, connection
from django.test import Client
from django.utils import timezone

from appliance.settings import BASE_DIR
from appliance.web import sessions
from retrieval.models import Kind, Session, User
from tests import database
from tests.factories import enrol, make_user
from tests.web.conftest import Log, signed_in

pytestmark = pytest.mark.usefixtures("db")

PASSWORD, NEW = "correct horse battery", "a staple for the battery"


@pytest.fixture
def ben() -> User:
    return make_user("ben")


def is_in(client: Client) -> bool:
    return client.get("/account").status_code == 200


def sign_in(client: Client, name: str = "ben") -> None:
    client.post("/sign-in", {"username": name, "password": PASSWORD})


def test_a_session_ends_after_a_while_without_a_request(ben: User) -> None:
    client = signed_in(ben)
    idle = timedelta(minutes=settings.CLOISTER_SESSION_IDLE_MIN)

    Session.objects.update(seen_at=timezone.now() - idle + timedelta(seconds=20))
    assert is_in(client)
    assert timezone.now() - Session.objects.get().seen_at < timedelta(seconds=20)
    Session.objects.update(seen_at=timezone.now() - idle)

    assert not is_in(client)


def test_a_session_ends_at_last_whatever_happens(ben: User) -> None:
    client = signed_in(ben)
    longest = timedelta(hours=settings.CLOISTER_SESSION_MAX_HOURS)

    Session.objects.update(started_at=timezone.now() - longest)

    assert not is_in(client)


def test_showing_the_second_factor_lengthens_no_session(ben: User) -> None:
    client = signed_in(ben)
    session = client.session
    session[sessions.STARTED_AT] -= 3600
    session.save()
    before = Session.objects.get()

    client.post("/second-factor", {"code": enrol(ben)[0]})

    after = Session.objects.get()
    assert after.pk != before.pk
    assert after.started_at == before.started_at
    assert timezone.now() - after.started_at >= timedelta(hours=1)


def test_signing_in_gives_the_session_another_key_and_a_new_beginning(ben: User) -> None:
    client = Client()
    sign_in(client)
    first, row = client.session.session_key, Session.objects.get()
    Session.objects.update(expire_date=timezone.now())
    sign_in(client)

    assert client.session.session_key != first
    assert Session.objects.get().pk != row.pk


def test_the_table_does_not_hold_what_the_cookie_does(ben: User) -> None:
    client = signed_in(ben)

    assert client.session.session_key is not None
    assert client.session.session_key not in str(Session.objects.values().get())


def test_data_of_one_session_open_in_no_other(ben: User) -> None:
    signed_in(make_user("ada"))
    theirs = Session.objects.get()
    client = signed_in(ben)
    assert is_in(client)

    Session.objects.exclude(pk=theirs.pk).update(session_data=theirs.session_data)

    assert not is_in(client)
    assert Plain.key_salt != sessions.SessionStore.key_salt


def test_one_sees_the_own_sessions_and_ends_the_others(ben: User, log: Log) -> None:
    here, there, hers = signed_in(ben), signed_in(ben), signed_in(make_user("ada"))

    page = here.get("/account").content.decode()
    assert page.count("<li>Since") == 2
    assert page.count("this one") == 1
    here.post("/account/end-others")

    assert is_in(here)
    assert not is_in(there)
    assert is_in(hers)
    assert log(Kind.SESSIONS_ENDED) == [{"sessions": 1, "user": ben.pk}]


def test_a_changed_password_ends_the_other_sessions(ben: User) -> None:
    here, there = signed_in(ben), signed_in(ben)

    form = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
    here.post("/password", form)

    assert is_in(here)
    assert not is_in(there)


def test_a_closed_account_has_no_session_at_the_next_request(ben: User) -> None:
    client = signed_in(ben)

    User.objects.update(is_active=False)
    assert not is_in(client)


def test_closing_an_account_deletes_its_sessions(ben: User) -> None:
    signed_in(ben)
    administrator = signed_in(make_user("ada", is_staff=True, is_superuser=True))

    joined = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    administrator.post(f"/admin/retrieval/user/{ben.pk}/change/", {"username": "ben"} | joined)

    assert not Session.objects.filter(user=ben).exists()


def test_sessions_that_are_over_leave_the_table_when_somebody_signs_in(ben: User) -> None:
    signed_in(make_user("ada"))
    Session.objects.update(seen_at=timezone.now() - timedelta(days=1))

    sign_in(Client())

    assert Session.objects.get().user == ben


@pytest.mark.parametrize(
    "table",
    [
        "retrieval_session",
        "retrieval_authenticator",
        "retrieval_recoverycode",
        "axes_accessattempt",
        "django_session",
    ],
)
def test_a_workers_role_reads_nothing_of_signing_in(table: str) -> None:
    with (
        database.role("worker"),
        connection.cursor() as cursor,
        pytest.raises(ProgrammingError, match="permission denied"),
    ):
        cursor.execute(f"SELECT * FROM {table}")


def behind_tls(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env={**os.environ, "CLOISTER_BEHIND_TLS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_djangos_check_for_deployment_has_nothing_to_say() -> None:
    found = behind_tls("check", "--deploy", "--fail-level", "WARNING")

    assert (found.returncode, found.stderr) == (0, "")
    assert "no issues" in found.stdout


def test_behind_tls_cookies_are_for_this_host_alone() -> None:
    names = "SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"
    code = f"from django.conf import settings as s; print(*[getattr(s, n) for n in {names}])"

    assert behind_tls("shell", "-v", "0", "-c", code).stdout.split() == [
        "__Host-session",
        "__Host-csrf",
        "True",
        "True",
    ]
