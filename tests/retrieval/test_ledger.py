"""The ledger held against the log, as an administrator of the database finds neither."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from retrieval import access, audit, budget, ledger
from retrieval.ledger import Comparison
from retrieval.models import Collection, Kind, Purpose, Reservation, User
from tests import database
from tests.factories import operator
from tests.retrieval.test_budget import (
    DELTA,
    collection,
    compose,
    make_officer,
    officer,
    reserve,
    settle,
    steps,
)
from tests.web.conftest import Superuser

__all__ = ["collection", "officer"]

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def settled(collection: Collection, officer: User) -> Reservation:
    """A ledger in which everything happened: a raise by two, one training settled, one void."""
    second = make_officer()
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    budget.approve_raise(proposal.pk, actor=second)
    declined = budget.propose_raise(collection, max_epsilon=10.0, delta=DELTA, actor=officer)
    budget.decline_raise(declined.pk, actor=second)
    voided = reserve(collection, steps(3))
    with database.role("worker"):
        budget.resume(voided, actor=None)
        budget.void(voided, actor=None, compose=compose)
    first = settle(reserve(collection, steps(2)), steps(1))
    reserve(collection)
    return first


def compared() -> Comparison:
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        return ledger.verify()


def test_a_ledger_that_nobody_touched_is_as_the_log_says(settled: Reservation) -> None:
    assert compared() == Comparison(trainings=3)
    call_command("audit", "verify")


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM retrieval_reservation WHERE id = %(id)s", "gone from the ledger"),
        ("UPDATE retrieval_reservation SET spent = '[]', epsilon = 0 WHERE id = %(id)s", "epsilon"),
        ("UPDATE retrieval_reservation SET plan = '[]' WHERE id = %(id)s", "another plan"),
        ("UPDATE retrieval_reservation SET units = 99 WHERE id = %(id)s", "another units"),
        ("UPDATE retrieval_reservation SET resumed_at = NULL WHERE state = 'void'", "resumed"),
        (
            "UPDATE retrieval_reservation SET state = 'void', spent = NULL WHERE id = %(id)s",
            "another state",
        ),
        (
            "UPDATE retrieval_reservation SET id = gen_random_uuid() WHERE state = 'open'",
            "gone from the ledger",
        ),
        ("UPDATE retrieval_budget SET max_epsilon = 99", "another than was decided"),
        ("DELETE FROM retrieval_budget", "another than was decided"),
    ],
)
def test_what_a_database_administrator_changed_is_named(
    settled: Reservation, superuser: Superuser, statement: str, problem: str
) -> None:
    superuser.execute("SET session_replication_role = replica")
    superuser.execute(statement, {"id": settled.pk})

    found = compared()

    assert problem in found.problem
    assert found.entry is not None


def test_a_reservation_that_is_on_no_log_is_named(
    settled: Reservation, superuser: Superuser
) -> None:
    superuser.execute("SET session_replication_role = replica")
    superuser.execute(
        "CREATE TEMPORARY TABLE copied AS SELECT * FROM retrieval_reservation WHERE id = %s",
        [settled.pk],
    )
    superuser.execute("UPDATE copied SET id = gen_random_uuid()")
    superuser.execute("INSERT INTO retrieval_reservation SELECT * FROM copied")

    assert "not on the log" in compared().problem
    with pytest.raises(CommandError, match="the ledger is not what entry"):
        call_command("audit", "verify")


def test_a_first_difference_is_at_the_entry_that_wrote_the_field(
    settled: Reservation, superuser: Superuser
) -> None:
    superuser.execute("SET session_replication_role = replica")
    superuser.execute("UPDATE retrieval_reservation SET epsilon = 0.1 WHERE state = 'settled'")

    assert compared().entry == settled.closed_event


Entry = Callable[[Reservation, User], object]


def changed(reservation: Reservation, actor: User, **told: object) -> object:
    numbers: dict[str, Any] = {"max_epsilon": 20.0, "delta": DELTA}
    numbers["collection"] = reservation.collection_id
    return audit.record(Kind.BUDGET_CHANGED, actor=actor, **numbers | told)


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda r, a: changed(r, a, change="lowered", proposal=None), "one person alone"),
        (lambda r, a: changed(r, a, change="raised", proposal=77), "nobody proposed"),
        (
            lambda r, a: [
                changed(r, a, change="raise proposed", proposal=77),
                changed(r, a, change="raised", proposal=77),
            ],
            "one person alone",
        ),
        (
            lambda r, a: audit.record(Kind.BUDGET_RESUMED, actor=a, reservation=r.pk),
            "was not open",
        ),
        (lambda r, a: audit.record(Kind.BUDGET_RESERVED, actor=a, reservation="x"), "lacks"),
        (lambda r, a: again(r, a, total_epsilon=20.0), "more than the budget"),
        (lambda r, a: again(r, a, total_epsilon=float("nan")), "more than the budget"),
        (lambda r, a: again(r, a, budget_delta=0.5), "another δ"),
        (lambda r, a: again(r, a, reservation=r.pk), "reserved before"),
    ],
)
def test_an_entry_that_cannot_have_happened_is_named(
    settled: Reservation, officer: User, write: Entry, problem: str
) -> None:
    write(settled, officer)

    found = compared()

    assert problem in found.problem
    assert found.entry is not None
    assert found.entry > (settled.closed_event or 0)


def again(like: Reservation, actor: User, **told: object) -> object:
    said: dict[str, Any] = {
        name: getattr(like, name) for name in ("epsilon", "delta", "unit", "units")
    }
    said |= {"plan": like.plan, "collection": like.collection_id}
    said |= {"total_epsilon": 1.0, "budget_delta": DELTA, "subject_group": None}
    said |= {"reservation": "00000000-0000-0000-0000-000000000001"}
    return audit.record(Kind.BUDGET_RESERVED, actor=actor, **said | told)
