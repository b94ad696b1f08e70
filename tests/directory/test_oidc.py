import logging
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from django.contrib.auth.models import Group
from django.test import Client

from appliance.directory.configuration import Oidc, SignIn
from appliance.web.middleware import CHECKED_AT
from retrieval import second_factor
from retrieval.models import Kind, User
from tests.directory import provider as providers
from tests.directory.provider import CLIENT, SECRET, Provider
from tests.factories import enrol, make_user
from tests.web.conftest import Log, log

__all__ = ["log"]

pytestmark = pytest.mark.usefixtures("db")

OUT = "/sign-in/provider"


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with providers.running() as it:
        yield it


@pytest.fixture(autouse=True)
def provider(running: Provider, settings: Any) -> Provider:
    running.person = {
        "sub": "248289761001",
        "preferred_username": "lea",
        "groups": ["radiology-staff", "unknown"],
    }
    running.spoilt, running.userinfo, running.refuses = {}, {}, False
    running.key = providers.KEY
    settings.CLOISTER_SIGN_IN = SignIn(
        oidc=Oidc(
            title="Example Hospital",
            issuer=running.url,
            client_id=CLIENT,
            client_secret=SECRET,
            authorization_endpoint=f"{running.url}/auth",
            token_endpoint=f"{running.url}/token",
            userinfo_endpoint=f"{running.url}/userinfo",
            jwks_endpoint=f"{running.url}/jwks",
        ),
        groups={"radiology-staff": "Radiology"},
        staff_groups=frozenset({"it"}),
    )
    return running


def through(client: Client, start: str = OUT) -> Any:
    """Out to the provider, and back with what it says."""
    away = client.get(start).headers["Location"]
    back = requests.get(away, allow_redirects=False, timeout=5).headers["Location"]
    return client.get(back.removeprefix("http://testserver"))


def signed_in() -> Client:
    client = Client(raise_request_exception=False)
    through(client)
    return client


def is_in(client: Client) -> bool:
    return client.get("/account").status_code == 200


def test_who_the_provider_knows_gets_an_account_with_its_groups_and_nothing_more(
    log: Log,
) -> None:
    client = Client()
    assert "Sign in with Example Hospital" in client.get("/sign-in").content.decode()

    answer = through(client, f"{OUT}?next=/account")

    assert answer.headers["Location"] == "/account"
    assert is_in(client)
    lea = User.objects.get(username="lea")
    assert [group.name for group in lea.groups.all()] == ["Radiology"]
    assert (lea.directory, lea.is_staff, lea.is_superuser) == ("oidc", False, False)
    assert log(Kind.SIGNED_IN) == [{"by": "provider"}]

    signed_in()
    assert User.objects.filter(directory="oidc").count() == 1


def test_a_person_is_known_by_subject_and_not_by_name(provider: Provider) -> None:
    signed_in()
    lea = User.objects.get(username="lea")

    provider.person |= {"preferred_username": "lea.married"}
    assert is_in(signed_in())
    assert User.objects.filter(directory="oidc").get() == lea

    provider.person |= {"sub": "another", "preferred_username": "lea"}
    assert not is_in(signed_in())


def test_an_account_of_ours_is_not_taken_over_by_a_person_of_its_name() -> None:
    make_user("lea", is_staff=True)

    assert not is_in(signed_in())


@pytest.mark.parametrize(
    "spoilt",
    [
        {"aud": "somebody-else"},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"iss": "https://elsewhere.example"},
        {"nonce": "of another session"},
        {"nonce": None},
        {"exp": 1},
        {"exp": None},
        {"aud": None},
        {"sub": "another"},
        {"exp": "soon"},
        {"aud": 7},
        {"sub": ["248289761001"]},
    ],
    ids=str,
)
def test_a_token_that_was_not_made_for_this_sign_in_is_refused(
    provider: Provider, spoilt: dict[str, Any], log: Log
) -> None:
    provider.spoilt = spoilt

    client = Client()
    answer = through(client)

    assert answer.headers["Location"] == "/sign-in?refused=1"
    assert not is_in(client)
    assert "did not let you in" in client.get(answer.headers["Location"]).content.decode()
    assert log(Kind.SIGN_IN_FAILED) == [{"by": "provider"}]
    assert not User.objects.filter(directory="oidc").exists()


def test_a_token_signed_by_somebody_else_is_refused(provider: Provider) -> None:
    provider.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    assert not is_in(signed_in())


def test_claims_of_somebody_else_are_refused(provider: Provider) -> None:
    provider.userinfo = {"sub": "another"}

    assert not is_in(signed_in())


@pytest.mark.parametrize(
    "told",
    [
        {"preferred_username": {"lea": 1}},
        {"preferred_username": "le\x00a"},
        {"preferred_username": ""},
        {"groups": "it"},
        {"groups": [["it"]]},
        {"sub": 248289761001},
    ],
    ids=str,
)
def test_claims_of_the_wrong_kind_are_refused_and_no_error(
    provider: Provider, told: dict[str, Any]
) -> None:
    provider.userinfo = told

    client = Client()

    assert through(client).headers["Location"] == "/sign-in?refused=1"
    assert not is_in(client)


def test_a_code_is_taken_in_the_browser_that_asked_for_it_and_once(provider: Provider) -> None:
    client = Client(raise_request_exception=False)
    away = client.get(OUT).headers["Location"]
    back = requests.get(away, allow_redirects=False, timeout=5).headers["Location"]
    path = back.removeprefix("http://testserver")

    assert Client(raise_request_exception=False).get(path).status_code == 400
    assert client.get(path).status_code == 302
    assert client.get(path).status_code == 400
    assert is_in(client)


def test_nobody_elses_link_signs_anybody_out() -> None:
    client = signed_in()

    assert client.get(f"{OUT}/back?error=access_denied&state=x").status_code == 400
    assert client.get(f"{OUT}/back").status_code == 400
    assert is_in(client)


def test_refusals_are_in_the_log_file_without_what_was_said(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.spoilt = {"aud": "somebody-else"}
    with caplog.at_level(logging.WARNING):
        signed_in()

    assert "a token that is not for us" in caplog.text
    for told in ("lea", "248289761001", "somebody-else"):
        assert told not in caplog.text


def test_staff_is_who_is_in_a_staff_group_and_shows_a_second_factor(provider: Provider) -> None:
    provider.person |= {"groups": ["it"]}
    client = signed_in()

    assert User.objects.get(username="lea").is_staff
    assert client.get("/admin/").headers["Location"].startswith("/second-factor/enrol")

    provider.person |= {"groups": []}
    signed_in()
    assert not User.objects.get(username="lea").is_staff


def forget_check(client: Client) -> None:
    session = client.session
    session[CHECKED_AT] = 0
    session.save()


def test_the_provider_is_asked_again_and_the_session_goes_on_with_its_second_factor(
    provider: Provider, log: Log
) -> None:
    client = signed_in()
    lea = User.objects.get(username="lea")
    client.post("/second-factor", {"code": enrol(lea)[0]})
    forget_check(client)
    before = client.session.session_key

    sent = client.get("/account")
    assert sent.headers["Location"] == f"{OUT}?next=%2Faccount"
    answer = through(client, sent.headers["Location"])

    assert answer.headers["Location"] == "/account"
    assert is_in(client)
    assert client.session.session_key != before
    assert len(log(Kind.SIGNED_IN)) == 1
    assert second_factor.is_enrolled(lea)


def test_who_is_closed_there_is_out_at_the_next_check(provider: Provider) -> None:
    client = signed_in()
    provider.refuses = True
    assert is_in(client)

    forget_check(client)
    through(client, client.get("/account").headers["Location"])

    assert "_auth_user_id" not in client.session


def test_an_account_closed_here_is_out_at_the_next_request() -> None:
    client = signed_in()
    User.objects.filter(username="lea").update(is_active=False)

    assert not is_in(client)
    assert not is_in(signed_in())


def test_groups_of_ours_alone_stay(provider: Provider) -> None:
    signed_in()
    lea = User.objects.get(username="lea")
    lea.groups.add(Group.objects.create(name="Night shift"))
    provider.person |= {"groups": []}

    signed_in()

    assert [group.name for group in lea.groups.all()] == ["Night shift"]


def test_without_a_provider_its_addresses_are_not_there(settings: Any) -> None:
    settings.CLOISTER_SIGN_IN = SignIn()
    client = Client()

    assert (
        client.get(OUT).status_code == client.get(f"{OUT}/back?code=1&state=1").status_code == 404
    )
    assert "Sign in with" not in client.get("/sign-in").content.decode()
