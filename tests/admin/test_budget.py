import json

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from retrieval import access, budget
from retrieval.models import (
    Budget,
    BudgetProposal,
    Certificate,
    Collection,
    EncoderVersion,
    Kind,
    Purpose,
    Reservation,
    User,
)
from tests import database
from tests.factories import make_encoder, make_user
from tests.retrieval.test_budget import DELTA, make_officer
from tests.retrieval.test_certificates import issue, make_settled, register
from tests.web.conftest import Blocked, Log, Superuser, signed_in

LIST = "/admin/retrieval/budget/"
CERTIFICATES = "/admin/retrieval/certificate/"


@pytest.fixture
def officer(db: None) -> User:
    return make_officer()


@pytest.fixture
def row(collection: Collection, officer: User) -> Budget:
    budget.set_budget(collection, max_epsilon=4.0, delta=DELTA, actor=officer)
    return budget_of(collection, officer)


@pytest.fixture
def certificate(row: Budget, collection: Collection) -> Certificate:
    base = make_encoder(name="base")
    with database.role("worker"):
        settled: Reservation = make_settled(collection)
        trained: EncoderVersion = register(base, epsilon=settled.epsilon, delta=settled.delta)
        return issue(settled, trained)


def budget_of(collection: Collection, officer: User) -> Budget:
    with access.acting_as(officer, Purpose.ADMINISTRATION):
        return Budget.objects.get(collection=collection)


def open_proposal(officer: User) -> BudgetProposal:
    with access.acting_as(officer, Purpose.ADMINISTRATION):
        return BudgetProposal.objects.get(outcome="open")


def make_staff(*codenames: str) -> Client:
    user = make_user(is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return signed_in(user)


def numbers(collection: Collection, max_epsilon: float) -> dict[str, object]:
    return {"collection": collection.pk, "max_epsilon": max_epsilon, "delta": DELTA}


def test_an_officer_sets_lowers_and_another_one_raises(
    collection: Collection, officer: User
) -> None:
    one, two = signed_in(officer), signed_in(make_officer())
    one.post(f"{LIST}set/", numbers(collection, 4.0))
    one.post(f"{LIST}set/", numbers(collection, 2.0))
    assert budget_of(collection, officer).max_epsilon == 2.0

    page = one.post(f"{LIST}set/", numbers(collection, 8.0), follow=True).content.decode()
    assert "somebody else approves" in page
    decide = f"{LIST}proposal/{open_proposal(officer).pk}/decide/"
    refusal = one.post(decide, {"decision": "approve"}, follow=True).content.decode()
    assert "Somebody else has to approve" in refusal
    assert budget_of(collection, officer).max_epsilon == 2.0

    url = f"{LIST}{budget_of(collection, officer).pk}/change/"
    assert "Approve</button>" not in one.get(url).content.decode()
    assert "Approve</button>" in two.get(url).content.decode()
    two.post(decide, {"decision": "approve"})
    assert budget_of(collection, officer).max_epsilon == 8.0


def test_who_may_only_look_neither_sets_nor_decides(
    row: Budget, collection: Collection, officer: User
) -> None:
    budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    auditor = make_staff("view_budget")

    page = auditor.get(f"{LIST}{row.pk}/change/").content.decode()
    assert "Proposed raises" in page
    for label in ("Approve", "Decline", "Take back", "Set"):
        assert f"{label}</button>" not in page
    auditor.post(f"{LIST}set/", numbers(collection, 1.0))
    decide = f"{LIST}proposal/{open_proposal(officer).pk}/decide/"
    for decision in ("approve", "decline"):
        auditor.post(decide, {"decision": decision})

    assert budget_of(collection, officer).max_epsilon == 4.0
    assert open_proposal(officer)


@pytest.mark.parametrize("url", [LIST, CERTIFICATES])
def test_staff_without_the_right_see_neither_budgets_nor_certificates(
    certificate: Certificate, url: str
) -> None:
    assert make_staff().get(url).status_code == 403


def test_certificates_take_a_right_of_their_own(certificate: Certificate) -> None:
    officer = make_staff("change_budget")

    for url in (CERTIFICATES, f"{CERTIFICATES}{certificate.pk}/change/"):
        assert officer.get(url).status_code in (302, 403)
    answer = officer.get(f"{CERTIFICATES}{certificate.pk}/download/")
    assert "signature" not in answer.content.decode()


def test_the_budgets_page_shows_what_was_spent_and_is_left_and_each_look_is_on_the_log(
    certificate: Certificate, row: Budget, collection: Collection, log: Log
) -> None:
    viewer = make_staff("view_budget")
    listed = viewer.get(LIST).content.decode()
    page = viewer.get(f"{LIST}{row.pk}/change/").content.decode()

    spent = certificate.reservation.epsilon
    for text in (f"{spent:.4g}", f"{4.0 - spent:.4g}"):
        assert text in listed
        assert text in page
    assert "<polyline" in page
    assert "Settled" in page
    shown = [e["collections"] for e in log(Kind.BUDGET_READ)]
    assert shown == [[str(collection.pk)], [str(collection.pk)]]


def test_a_certificate_is_readable_says_whether_it_holds_and_links_to_the_log(
    certificate: Certificate, browser: Client, log: Log, superuser: Superuser
) -> None:
    url = f"{CERTIFICATES}{certificate.pk}/change/"
    page = browser.get(url).content.decode()

    for name in json.loads(certificate.document)["fields"]:
        assert name in page
    assert f"/auditevent/{certificate.event}/change/" in page
    assert "does not hold" not in page
    assert log(Kind.CERTIFICATE_READ) == [{"certificates": [str(certificate.pk)]}]

    superuser.execute("UPDATE retrieval_certificate SET document = replace(document, 'poi', 'x')")
    assert "does not hold" in browser.get(url).content.decode()
    assert "does not hold" in browser.get(CERTIFICATES).content.decode()


def test_an_auditor_takes_the_signed_document_away(certificate: Certificate, log: Log) -> None:
    answer = make_staff("view_certificate").get(f"{CERTIFICATES}{certificate.pk}/download/")

    assert answer.content.decode() == certificate.document
    assert log(Kind.CERTIFICATE_READ) == [{"certificates": [str(certificate.pk)]}]


def test_nothing_is_shown_while_the_look_cannot_be_recorded(
    certificate: Certificate, row: Budget, browser: Client, log_blocked: Blocked
) -> None:
    with log_blocked():
        answer = browser.get(f"{CERTIFICATES}{certificate.pk}/download/")

    assert answer.status_code == 503
    assert "signature" not in answer.content.decode()


def test_decisions_take_a_post(browser: Client, row: Budget) -> None:
    assert browser.get(f"{LIST}set/").status_code == 405
    assert browser.get(f"{LIST}proposal/1/decide/").status_code == 405
