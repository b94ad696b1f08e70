import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.utils import timezone

from retrieval import holds
from retrieval.errors import AccessDenied
from retrieval.models import (
    ApiToken,
    Collection,
    Hold,
    Kind,
    Purpose,
    Role,
    Scope,
    ServiceAccount,
    User,
)
from tests.factories import grant, make_account, make_token, make_user
from tests.web.conftest import Log, Superuser, signed_in

TOKENS = "/admin/retrieval/apitoken/"


@pytest.fixture
def account(administrator: User, collection: Collection) -> ServiceAccount:
    """The administrator answers for it."""
    account = make_account(responsible=administrator)
    grant(account, collection, Role.CURATOR)
    return account


@pytest.fixture
def form(account: ServiceAccount, collection: Collection) -> dict[str, Any]:
    ends = timezone.now() + timedelta(days=30)
    return {
        "account": account.pk,
        "name": "the archive's importer",
        "scopes": [Scope.SEARCH, Scope.STATUS],
        "collections": [collection.pk],
        "purposes": [Purpose.TREATMENT],
        "per_minute": 60,
        "queries_per_day": 1000,
        "expires_at_0": ends.strftime("%Y-%m-%d"),
        "expires_at_1": ends.strftime("%H:%M:%S"),
    }


def told(answer: Any) -> str:
    (text,) = re.findall(r"cloister_[0-9]+_[0-9A-Za-z]{49}", answer.content.decode())
    return str(text)


def works(text: str) -> bool:
    client = Client(headers={"Authorization": f"Bearer {text}"})
    return client.get("/api/v1/token").status_code == 200


def test_a_token_is_shown_once_and_opens_the_api(
    browser: Client, administrator: User, form: dict[str, Any], log: Log, superuser: Superuser
) -> None:
    answer = browser.post(f"{TOKENS}add/", form)

    text = told(answer)
    assert works(text)
    assert "no-store" in answer.headers["Cache-Control"]
    token = ApiToken.objects.get()
    assert (token.scopes, token.created_by) == (["search", "status"], administrator)
    assert log(Kind.TOKEN_ISSUED)[0]["issued"] == token.pk
    assert text not in browser.get(f"{TOKENS}{token.pk}/change/").content.decode()
    rows = superuser.execute("SELECT session_data FROM django_session").fetchall()
    assert not any(text in str(row) for row in rows)
    assert not any(text in cookie.value for cookie in browser.cookies.values())


@pytest.mark.parametrize(
    "change",
    [
        {"expires_at_0": "", "expires_at_1": ""},
        {"expires_at_0": "2099-01-01"},
        {"scopes": []},
        {"collections": []},
        {"purposes": []},
        {"queries_per_day": 0},
    ],
)
def test_a_token_without_an_end_or_a_bound_is_not_issued(
    browser: Client, form: dict[str, Any], change: dict[str, Any]
) -> None:
    assert browser.post(f"{TOKENS}add/", form | change).status_code == 200
    assert not ApiToken.objects.exists()


def test_a_token_is_rotated_and_revoked_by_a_button(
    browser: Client, account: ServiceAccount, collection: Collection
) -> None:
    first, text = make_token(account, collection)
    assert "Revoke" in browser.get(f"{TOKENS}{first.pk}/change/").content.decode()

    successor = told(browser.post(f"{TOKENS}{first.pk}/rotate/", {"overlap_h": "1"}))
    assert works(text)
    assert works(successor)

    newest = ApiToken.objects.latest("pk")
    browser.post(f"{TOKENS}{newest.pk}/revoke/")
    assert not works(successor)
    assert works(text)
    page = browser.get(TOKENS).content.decode()
    assert "revoked" in page


def test_who_has_no_right_to_tokens_decides_about_none(
    account: ServiceAccount, collection: Collection, form: dict[str, Any]
) -> None:
    token, text = make_token(account, collection)
    clerk = signed_in(make_user(is_staff=True))

    assert clerk.post(f"{TOKENS}{token.pk}/revoke/").status_code in (403, 404)
    assert clerk.post(f"{TOKENS}{token.pk}/rotate/").status_code in (403, 404)
    assert clerk.post(f"{TOKENS}add/", form).status_code == 403
    assert works(text)


def test_whoever_does_not_answer_for_a_program_sees_none_of_its_tokens(
    account: ServiceAccount, collection: Collection, form: dict[str, Any], browser: Client
) -> None:
    token, text = make_token(account, collection)
    other = signed_in(make_user(is_staff=True, is_superuser=True))

    assert "Select a valid choice" in other.post(f"{TOKENS}add/", form).content.decode()
    assert other.post(f"{TOKENS}{token.pk}/rotate/").status_code == 302
    assert "/rotate/" not in other.get(f"{TOKENS}{token.pk}/change/").content.decode()
    assert ApiToken.objects.count() == 1
    with pytest.raises(AccessDenied):
        make_token(account, collection, issued_by=make_user())
    other.post(f"{TOKENS}{token.pk}/revoke/")
    assert not works(text)


def test_a_program_given_to_another_person_is_held_until_a_second_one_agrees(
    browser: Client, account: ServiceAccount, collection: Collection, log: Log
) -> None:
    _, text = make_token(account, collection)
    vera = make_user("vera", is_staff=True, is_superuser=True)
    form = {"username": account.username, "responsible": vera.pk, "is_active": "on"}
    assert works(text)

    browser.post(f"/admin/retrieval/serviceaccount/{account.pk}/change/", form)

    assert not works(text)
    assert log(Kind.USER_CHANGED)[-1]["responsible"] == vera.pk
    holds.lift(Hold.objects.get(user=account).pk, actor=vera)
    assert works(text)


def test_a_service_account_is_opened_with_a_person_and_closed_with_its_tokens(
    browser: Client, collection: Collection, log: Log
) -> None:
    person = make_user("vera", is_staff=True)
    url = "/admin/retrieval/serviceaccount/"
    refused = browser.post(f"{url}add/", {"username": "importer", "responsible": person.pk})
    assert "may not issue tokens" in refused.content.decode()
    person.user_permissions.add(Permission.objects.get(codename="add_apitoken"))
    browser.post(f"{url}add/", {"username": "importer", "responsible": person.pk})

    account = ServiceAccount.objects.get(username="importer")
    assert account.responsible == person
    assert not account.has_usable_password()
    assert log(Kind.USER_CHANGED)[-1]["user"] == account.pk
    _, text = make_token(account, collection)
    assert works(text)
    browser.post(f"{url}{account.pk}/change/", {"username": "importer", "responsible": person.pk})
    assert not works(text)


def test_a_program_takes_no_name_that_a_person_has(
    browser: Client, administrator: User, account: ServiceAccount
) -> None:
    form = {"username": "ada", "responsible": administrator.pk, "is_active": "on"}
    for place in ("add", f"{account.pk}/change"):
        answer = browser.post(f"/admin/retrieval/serviceaccount/{place}/", form)
        assert "There is an account of that name." in answer.content.decode()


def test_a_service_account_cannot_answer_for_another(
    browser: Client, account: ServiceAccount
) -> None:
    browser.post(
        "/admin/retrieval/serviceaccount/add/", {"username": "second", "responsible": account.pk}
    )

    assert not User.objects.filter(username="second").exists()
