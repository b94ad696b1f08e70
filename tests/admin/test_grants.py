from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from retrieval.models import Collection, Grant, Kind, Purpose, Role, User
from tests.factories import grant, make_collection, make_user
from tests.web.conftest import Blocked, Log, Superuser

ADD = "/admin/retrieval/grant/add/"


@pytest.fixture
def form(collection: Collection) -> dict[str, Any]:
    now = timezone.now()
    return {
        "user": make_user("ben").pk,
        "group": "",
        "collection": collection.pk,
        "role": Role.SEARCHER,
        "purposes": [Purpose.TREATMENT],
        "valid_from_0": now.strftime("%Y-%m-%d"),
        "valid_from_1": now.strftime("%H:%M:%S"),
    }


def test_a_grant_names_its_giver_and_is_on_the_log(
    browser: Client, administrator: User, form: dict[str, Any], log: Log
) -> None:
    browser.post(ADD, form)

    given = Grant.objects.get(user__username="ben")
    assert given.granted_by == administrator
    entry = log(Kind.GRANT_CHANGED)[-1]
    assert (entry["change"], entry["grant"], entry["role"]) == ("given", given.pk, "searcher")
    assert (entry["user"], entry["purposes"]) == (given.user_id, ["TREAT"])


def test_a_grant_is_not_given_without_its_entry(
    browser: Client, form: dict[str, Any], log_blocked: Blocked, superuser: Superuser
) -> None:
    superuser.execute("REVOKE EXECUTE ON FUNCTION cloister_audit_append FROM cloister_web")
    try:
        answer = browser.post(ADD, form)
    finally:
        superuser.execute("GRANT EXECUTE ON FUNCTION cloister_audit_append TO cloister_web")

    assert answer.status_code >= 500
    assert not Grant.objects.filter(user__username="ben").exists()


def test_purposes_stay_within_those_of_the_collection(
    browser: Client, form: dict[str, Any]
) -> None:
    narrow = make_collection("narrow", purposes=[Purpose.RESEARCH])

    answer = browser.post(ADD, form | {"collection": narrow.pk})

    assert "This collection is not open for: Treatment." in answer.content.decode()
    assert not Grant.objects.filter(user__username="ben").exists()


@pytest.mark.parametrize("change", [{"user": ""}, {"purposes": []}, {"role": "king"}])
def test_an_incomplete_grant_is_not_given(
    browser: Client, form: dict[str, Any], change: dict[str, Any]
) -> None:
    assert browser.post(ADD, form | change).status_code == 200
    assert not Grant.objects.filter(user__username="ben").exists()


def test_changing_and_revoking_a_grant_are_on_the_log(
    browser: Client, collection: Collection, form: dict[str, Any], log: Log
) -> None:
    given = grant(make_user(), collection)
    url = f"/admin/retrieval/grant/{given.pk}/"

    browser.post(f"{url}change/", form | {"role": Role.VIEWER})
    browser.post(f"{url}delete/", {"post": "yes"})

    changes = [(e["change"], e["role"]) for e in log(Kind.GRANT_CHANGED) if e["grant"] == given.pk]
    assert changes == [("given", "searcher"), ("changed", "viewer"), ("revoked", "viewer")]
    assert not Grant.objects.filter(pk=given.pk).exists()


def test_grants_are_not_revoked_in_bulk_past_the_log(
    browser: Client, collection: Collection
) -> None:
    given = grant(make_user(), collection)

    chosen = {"action": "delete_selected", "_selected_action": [given.pk], "post": "yes"}
    browser.post("/admin/retrieval/grant/", chosen)

    assert Grant.objects.filter(pk=given.pk).exists()
