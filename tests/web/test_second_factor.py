import base64
import re
import time
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone
from django_otp.oath import totp

from appliance.web import second_factor as of_session
from retrieval import holds, second_factor
from retrieval.errors import AccessDenied
from retrieval.models import Authenticator, HoldReason, Kind, RecoveryCode, Role, User, holds_on
from retrieval.second_factor import Outcome
from tests.factories import app_code, enrol, grant, make_collection, make_user
from tests.security.test_log_fails_closed import routes
from tests.web.conftest import Log, Superuser, signed_in

pytestmark = pytest.mark.usefixtures("db")

ASK, ENROL = "/second-factor", "/second-factor/enrol"
FIRST = {"healthz", "sign_in", "sign_out", "second_factor", "enrol", "change_password"}


def half_signed_in(user: User) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.fixture
def administrator() -> User:
    return make_user("ada", is_staff=True, is_superuser=True)


def closed_addresses() -> list[str]:
    """Of pages: the API reads no session (tests/api/test_tokens.py)."""
    made = (re.sub(r"<[^>]*>", "1", route) for name, route in routes() if name not in FIRST)
    return [f"/{url}" for url in made if not re.search(r"[(^]|^api/", url)]


@pytest.mark.parametrize("is_enrolled", [False, True])
def test_an_administrators_password_opens_no_page_at_all(
    administrator: User, is_enrolled: bool
) -> None:
    if is_enrolled:
        enrol(administrator)
    client = half_signed_in(administrator)
    first = ASK if is_enrolled else ENROL

    addresses = closed_addresses()
    assert len(addresses) > 40
    for url in addresses:
        for answer in (client.get(url), client.post(url)):
            assert answer.status_code in (302, 404), url
            if answer.status_code == 302:
                assert answer.headers["Location"].split("?")[0] in (first, "/sign-in"), url


def test_the_frame_of_a_half_open_session_tells_nothing(administrator: User) -> None:
    grant(administrator, make_collection(), Role.OWNER)
    enrol(administrator)

    page = half_signed_in(administrator).get(ASK).content.decode()

    assert "Administration" not in page
    assert "Treatment" not in page


@pytest.mark.parametrize(
    ("role", "required"),
    [(Role.SEARCHER, False), (Role.CURATOR, False), (Role.REVIEWER, True), (Role.OWNER, True)],
)
def test_who_may_review_needs_a_second_factor(role: Role, required: bool) -> None:
    user = make_user()
    grant(user, make_collection(), role)

    assert second_factor.is_required(user) is required
    assert half_signed_in(user).get("/").status_code == (302 if required else 200)


def test_a_part_of_a_page_sends_the_whole_page_to_the_second_factor(administrator: User) -> None:
    enrol(administrator)

    answer = half_signed_in(administrator).get("/", headers={"HX-Request": "true"})

    assert answer.headers["HX-Redirect"] == ASK


def shown(page: str) -> str:
    (key,) = re.findall(r'<code class="key">([A-Z2-7 ]+)</code>', page)
    return str(key).replace(" ", "")


def test_setting_up_an_app_shows_a_key_and_once_ten_recovery_codes(
    administrator: User, log: Log
) -> None:
    client = half_signed_in(administrator)
    sent = client.get("/admin/?x=1")
    assert sent.headers["Location"] == f"{ENROL}?next=%2Fadmin%2F%3Fx%3D1"
    page = client.get(ENROL).content.decode()
    assert 'src="data:image/svg+xml' in page
    key = shown(page)
    before = client.session.session_key

    wrong = client.post(ENROL, {"code": "000000", "next": "/admin/"})
    assert "not the code" in wrong.content.decode()
    assert shown(wrong.content.decode()) == key
    assert client.get("/admin/").status_code == 302

    answer = client.post(ENROL, {"code": code_of(key), "next": "/admin/"})

    codes = re.findall(r"<code>([a-z2-7-]{29})</code>", answer.content.decode())
    assert len(codes) == len(set(codes)) == second_factor.RECOVERY_CODES
    assert answer.headers["Cache-Control"].count("no-store") == 1
    assert client.session.session_key != before
    assert client.get("/admin/").status_code == 200
    assert log(Kind.SECOND_FACTOR_CHANGED) == [{"change": "enrolled", "user": administrator.pk}]


def code_of(key: str) -> str:
    return f"{totp(base64.b32decode(key)):06d}"


def test_neither_key_nor_codes_lie_open_in_the_database(
    administrator: User, superuser: Superuser
) -> None:
    codes = enrol(administrator)
    sealed = Authenticator.objects.get().sealed_key

    rows = superuser.execute(
        "SELECT sealed_key, code_hash FROM retrieval_authenticator a JOIN"
        " retrieval_recoverycode c ON a.user_id = c.user_id"
    ).fetchall()

    assert len(rows) == len(codes)
    assert not {code for _, code in rows} & {c.replace("-", "") for c in codes}
    key = second_factor.shown_key(administrator, bytes(sealed))
    assert all(key.encode() not in bytes(sealed_key) for sealed_key, _ in rows)


def test_a_key_opens_for_its_own_user_only(administrator: User) -> None:
    enrol(administrator)
    sealed = bytes(Authenticator.objects.get().sealed_key)

    with pytest.raises(Exception, match="does not open"):
        second_factor.shown_key(make_user(), sealed)


def later(administrator: User, steps: int = 1) -> str:
    return app_code(administrator, bytes(Authenticator.objects.get().sealed_key), steps_ahead=steps)


def test_a_code_is_taken_once(administrator: User, log: Log) -> None:
    enrol(administrator)
    code = later(administrator)

    assert second_factor.verify(administrator, code) is Outcome.PASSED
    assert second_factor.verify(administrator, code) is Outcome.WRONG
    assert log(Kind.SECOND_FACTOR_PASSED) == [{"by": "app"}]
    assert log(Kind.SECOND_FACTOR_FAILED) == [{"outcome": "wrong"}]


def test_a_recovery_code_is_used_up_and_typed_as_people_type(administrator: User) -> None:
    first, second, *_ = enrol(administrator)
    client = half_signed_in(administrator)

    client.post(ASK, {"code": f" {first.upper()} "})
    assert client.get("/admin/").status_code == 200
    assert second_factor.recovery_codes_left(administrator) == second_factor.RECOVERY_CODES - 1
    assert second_factor.verify(administrator, first) is Outcome.WRONG
    Authenticator.objects.update(failed_at=None)
    assert second_factor.verify(administrator, second.replace("-", "")) is Outcome.PASSED


def test_a_code_of_somebody_else_opens_nothing(administrator: User) -> None:
    enrol(administrator)

    assert second_factor.verify(administrator, enrol(make_user())[0]) is Outcome.WRONG


def test_each_wrong_code_doubles_the_wait_and_a_right_one_has_to_wait_too(
    administrator: User,
) -> None:
    codes = enrol(administrator)
    for failures in range(1, 5):
        assert second_factor.verify(administrator, "000000") is Outcome.WRONG
        assert second_factor.verify(administrator, codes[0]) is Outcome.TOO_SOON
        waited = timezone.now() - timedelta(seconds=2 ** (failures - 1) - 0.5)
        Authenticator.objects.update(failed_at=waited)
        assert second_factor.verify(administrator, codes[0]) is Outcome.TOO_SOON
        Authenticator.objects.update(failed_at=waited - timedelta(seconds=1))
    assert second_factor.verify(administrator, codes[0]) is Outcome.PASSED
    assert Authenticator.objects.get().failures == 0


def test_signing_in_again_asks_for_the_second_factor_again(administrator: User) -> None:
    client = signed_in(administrator)
    assert client.get("/admin/").status_code == 200

    form = {"username": "ada", "password": "correct horse battery"}
    client.post(reverse("sign_in"), form)

    assert client.get("/admin/").headers["Location"].startswith(ASK)


def test_the_second_factor_leads_on_to_pages_of_ours_only(administrator: User) -> None:
    codes = enrol(administrator)

    for code, asked, to in zip(
        codes, ["/admin/", "https://elsewhere.example/"], ["/admin/", "/"], strict=False
    ):
        answer = half_signed_in(administrator).post(ASK, {"code": code, "next": asked})
        assert answer.headers["Location"] == to


def test_a_reset_by_somebody_else_closes_open_sessions_and_is_on_the_log(
    administrator: User, log: Log
) -> None:
    reviewer = make_user("rex", is_staff=True)
    theirs, admins = signed_in(reviewer), signed_in(administrator)

    page = admins.get(f"/admin/retrieval/user/{reviewer.pk}/change/").content.decode()
    assert "Reset second factor" in page
    assert "This appliance" in page
    admins.post(f"/admin/retrieval/user/{reviewer.pk}/second-factor/reset/")

    assert theirs.get("/").headers["Location"].startswith("/sign-in")
    assert not RecoveryCode.objects.filter(user=reviewer).exists()
    assert log(Kind.SECOND_FACTOR_CHANGED)[-1] == {"change": "reset", "user": reviewer.pk}


def test_the_servers_own_command_is_the_last_resort(administrator: User, log: Log) -> None:
    client = signed_in(administrator)

    holds.place(administrator, HoldReason.SECOND_FACTOR, by=make_user())

    call_command("reset_second_factor", "ada", stdout=StringIO())

    assert not holds_on(administrator).exists()
    assert client.get("/").headers["Location"].startswith("/sign-in")
    assert log(Kind.SECOND_FACTOR_CHANGED)[-1] == {"change": "reset", "user": administrator.pk}


def test_a_session_is_half_open_again_once_its_second_factor_is_gone(
    administrator: User,
) -> None:
    client = signed_in(administrator)
    assert client.get("/admin/").status_code == 200

    second_factor.reset(administrator, actor=make_user())

    assert client.get("/admin/").headers["Location"].startswith(ENROL)


def test_nobody_resets_the_own_second_factor_nor_that_of_a_more_powerful_one(
    administrator: User,
) -> None:
    clerk = make_user("clerk", is_staff=True)
    client = signed_in(administrator)
    enrolled = Authenticator.objects.get()

    own = client.post(f"/admin/retrieval/user/{administrator.pk}/second-factor/reset/")
    foreign = signed_in(clerk).post(
        f"/admin/retrieval/user/{administrator.pk}/second-factor/reset/"
    )

    assert own.status_code == foreign.status_code == 403
    assert Authenticator.objects.filter(pk=enrolled.pk).exists()
    with pytest.raises(AccessDenied):
        second_factor.reset(administrator, actor=administrator)


def test_a_new_app_is_set_up_only_shortly_after_the_old_one_was_shown(
    administrator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = signed_in(administrator)
    assert client.get(ENROL).status_code == 200
    assert client.post("/second-factor/codes").status_code == 200

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11 * 60)

    assert client.get(ENROL).headers["Location"].startswith(ASK)
    assert client.post("/second-factor/codes").headers["Location"].startswith(ASK)


def test_whether_it_was_shown_lately_is_known(administrator: User) -> None:
    request: Any = RequestFactory().get("/")
    client = signed_in(administrator)
    request.user, request.session = administrator, client.session

    assert of_session.is_passed_within(request, 5)
    request.session[of_session.PASSED_AT] -= 301
    assert not of_session.is_passed_within(request, 5)
    assert of_session.is_passed(request)
    request.user = make_user()
    assert not of_session.is_passed(request)
