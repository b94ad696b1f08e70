"""The ledger, on the real database and in the real roles.

The accountant here is the plain Gaussian bound of Dwork and Roth (2014, theorem A.1) with noise
added up: monotone, and cheap. The real ones are tried in tests/workers.
"""

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Permission
from django.db import IntegrityError, connection

from retrieval import access, audit, budget
from retrieval.budget import Mechanism
from retrieval.errors import AccessDenied, BudgetExceeded, SecondPersonNeeded
from retrieval.models import (
    Budget,
    BudgetProposal,
    Charge,
    Collection,
    Kind,
    Outcome,
    Purpose,
    Reservation,
    Subject,
    Unit,
    User,
)
from tests import database
from tests.factories import make_collection, make_user
from tests.web.conftest import Log, log

__all__ = ["log"]

pytestmark = pytest.mark.usefixtures("db")

DELTA = 1e-5
STEP = Mechanism(noise_multiplier=10.0, sample_rate=1.0, steps=1)


def compose(mechanisms: Sequence[Mechanism], delta: float) -> float:
    inverse = sum(m.steps * (m.sample_rate / m.noise_multiplier) ** 2 for m in mechanisms)
    return math.sqrt(2 * math.log(1.25 / delta) * inverse)


ONE_STEP = compose([STEP], DELTA)


def steps(count: int) -> Mechanism:
    return Mechanism(10.0, 1.0, count)


def make_officer() -> User:
    user = make_user(is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="change_budget"))
    return User.objects.get(pk=user.pk)


@pytest.fixture
def officer(db: None) -> User:
    return make_officer()


@pytest.fixture
def second(db: None) -> User:
    """Another officer, who was one before anything was proposed."""
    return make_officer()


@pytest.fixture
def collection(officer: User) -> Collection:
    """With a budget for two steps and a bit."""
    made = make_collection()
    budget.set_budget(made, max_epsilon=1.6 * ONE_STEP, delta=DELTA, actor=officer)
    return made


def reserve(collection: Collection, *plan: Mechanism, **changed: Any) -> Reservation:
    arguments: dict[str, Any] = {
        "delta": DELTA,
        "unit": Unit.IMAGE,
        "units": 1000,
        "compose": compose,
    }
    with database.role("worker"):
        return budget.reserve(
            collection, plan=list(plan) or [STEP], actor=None, **arguments | changed
        )


def settle(reservation: Reservation, *spent: Mechanism) -> Reservation:
    with database.role("worker"):
        return budget.settle(reservation, spent, actor=None, compose=compose)


def max_epsilon(collection: Collection, officer: User) -> float:
    with access.acting_as(officer, Purpose.ADMINISTRATION):
        return Budget.objects.get(collection=collection).max_epsilon


# What is spent


def test_nothing_is_reserved_where_no_budget_was_set(log: Log) -> None:
    with pytest.raises(BudgetExceeded, match="no privacy budget"):
        reserve(make_collection())

    assert len(log(Kind.BUDGET_REFUSED)) == 1


def test_trainings_add_up_until_the_budget_is_spent(collection: Collection, log: Log) -> None:
    first = reserve(collection)
    second = reserve(collection)
    with pytest.raises(BudgetExceeded):
        reserve(collection)

    assert first.total_epsilon == pytest.approx(ONE_STEP)
    assert second.total_epsilon == pytest.approx(math.sqrt(2) * ONE_STEP)
    assert [e["reservation"] for e in log(Kind.BUDGET_RESERVED)] == [str(first.pk), str(second.pk)]
    assert [e["collection"] for e in log(Kind.BUDGET_REFUSED)] == [collection.pk]


def test_a_crashed_training_stays_charged_in_full(collection: Collection) -> None:
    reserve(collection, steps(2))  # and never heard of again

    with pytest.raises(BudgetExceeded):
        reserve(collection)


def test_a_training_that_proves_nothing_stays_charged_in_full(
    collection: Collection, log: Log
) -> None:
    reservation = reserve(collection, steps(2))
    with database.role("worker"):
        closed = budget.void(reservation, actor=None, compose=compose)

    assert closed.state == Charge.VOID
    assert closed.epsilon == pytest.approx(compose([steps(2)], DELTA))
    assert len(log(Kind.BUDGET_VOIDED)) == 1
    with pytest.raises(BudgetExceeded):
        reserve(collection)


def test_what_did_not_run_is_given_back(collection: Collection, log: Log) -> None:
    settled = settle(reserve(collection, steps(2)), steps(1))

    assert settled.epsilon == pytest.approx(ONE_STEP)
    assert settled.closed_total_epsilon == pytest.approx(ONE_STEP)
    assert len(log(Kind.BUDGET_SETTLED)) == 1
    assert reserve(collection).total_epsilon == pytest.approx(math.sqrt(2) * ONE_STEP)


@pytest.mark.parametrize(
    "spent",
    [[steps(3)], [steps(1), steps(2)], [Mechanism(20.0, 1.0, 1)], [Mechanism(10.0, 0.5, 1)]],
    ids=["more steps", "more in sum", "other noise", "other rate"],
)
def test_what_was_not_reserved_is_not_settled(
    collection: Collection, spent: list[Mechanism]
) -> None:
    reservation = reserve(collection, steps(2))

    with pytest.raises(BudgetExceeded):
        settle(reservation, *spent)
    with pytest.raises(BudgetExceeded):
        reserve(collection)


def test_a_closed_reservation_is_not_settled_for_less(collection: Collection) -> None:
    reservation = reserve(collection, steps(2))
    settle(reservation, steps(2))

    with pytest.raises(BudgetExceeded, match="closed"):
        settle(reservation)
    with database.role("worker"), access.processing(collection.pk):
        assert Reservation.objects.filter(pk=reservation.pk).update(spent=[]) == 0


@pytest.mark.parametrize("epsilon", [math.nan, math.inf, -1.0])
def test_an_accountant_without_a_number_allows_nothing(
    collection: Collection, epsilon: float
) -> None:
    with database.role("worker"), pytest.raises(BudgetExceeded):
        budget.reserve(
            collection,
            plan=[STEP],
            delta=DELTA,
            unit=Unit.IMAGE,
            units=10,
            actor=None,
            compose=lambda *_: epsilon,
        )


@pytest.mark.parametrize("units", [100_000, 100_001, 0])
def test_delta_is_less_than_one_over_the_units(collection: Collection, units: int) -> None:
    with pytest.raises(BudgetExceeded, match="1/"):
        reserve(collection, units=units)


def test_the_database_holds_delta_below_one_over_the_units(collection: Collection) -> None:
    row = reserve(collection)
    row.pk, row.units, row.total_epsilon = None, 100_000, compose([steps(2)], DELTA)
    with (
        database.role("worker"),
        pytest.raises(IntegrityError, match="one_over_n"),
        access.processing(collection.pk),
    ):
        Reservation(
            **{f.attname: getattr(row, f.attname) for f in Reservation._meta.fields[1:]}
        ).save()


def test_a_larger_delta_than_the_budgets_is_refused(collection: Collection) -> None:
    with pytest.raises(BudgetExceeded):
        reserve(collection, delta=2 * DELTA, units=100)


def test_a_collection_that_knows_its_subjects_counts_them(collection: Collection) -> None:
    make_subjects(collection, 1)

    with pytest.raises(BudgetExceeded, match="subjects"):
        reserve(collection, unit=Unit.IMAGE)
    assert reserve(collection, unit=Unit.SUBJECT).unit == Unit.SUBJECT


def test_two_units_are_not_added_up(collection: Collection) -> None:
    reserve(collection, unit=Unit.IMAGE)

    with pytest.raises(BudgetExceeded, match="another unit"):
        reserve(collection, unit=Unit.SUBJECT)


# Subject groups


def make_subjects(collection: Collection, count: int) -> list[Subject]:
    with access.acting_as(access_operator(), Purpose.ADMINISTRATION):
        return [
            Subject.objects.create(collection=collection, pseudonym=f"p{number}")
            for number in range(count)
        ]


def access_operator() -> User:
    return User.objects.get(username=access.OPERATOR)


def test_groups_without_a_common_subject_spend_apart_and_trainings_on_all_count_for_each(
    collection: Collection,
) -> None:
    one, two = make_subjects(collection, 2)
    with database.role("worker"):
        first = budget.open_subject_group(collection, "first", [one])
        second = budget.open_subject_group(collection, "second", [two])
    on = {"unit": Unit.SUBJECT}

    reserve(collection, subject_group=first, **on)
    apart = reserve(collection, subject_group=second, **on)
    assert apart.total_epsilon == pytest.approx(ONE_STEP)
    on_all = reserve(collection, **on)
    assert on_all.total_epsilon == pytest.approx(math.sqrt(2) * ONE_STEP)
    with pytest.raises(BudgetExceeded):
        reserve(collection, subject_group=second, **on)


def test_a_subject_is_in_one_group_only(collection: Collection) -> None:
    subjects = make_subjects(collection, 2)
    with database.role("worker"):
        budget.open_subject_group(collection, "first", subjects[:1])
        with pytest.raises(IntegrityError):
            budget.open_subject_group(collection, "second", subjects)


# At once


def test_two_trainings_at_once_do_not_both_take_the_last_of_the_budget(
    collection: Collection,
) -> None:
    reserve(collection)  # one more fits
    barrier, outcomes = threading.Barrier(4), []

    def slow(mechanisms: Sequence[Mechanism], delta: float) -> float:
        threading.Event().wait(0.05)  # an accountant takes its time: the race is wide open
        return compose(mechanisms, delta)

    def train() -> None:
        try:
            barrier.wait(10)
            budget.reserve(
                collection,
                plan=[STEP],
                delta=DELTA,
                unit=Unit.IMAGE,
                units=10,
                actor=None,
                compose=slow,
            )
            outcomes.append("reserved")
        except BudgetExceeded:
            outcomes.append("refused")
        finally:
            connection.close()

    with as_worker_in_every_thread():
        threads = [threading.Thread(target=train) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert sorted(outcomes) == ["refused", "refused", "refused", "reserved"]


def as_worker_in_every_thread() -> Any:
    """Threads take their settings from the same dictionary as the main one."""
    return database.role("worker")


# Who decides


def test_lowering_takes_one_person_and_holds_at_once(
    collection: Collection, officer: User, log: Log
) -> None:
    budget.set_budget(collection, max_epsilon=0.1, delta=DELTA, actor=officer)

    assert max_epsilon(collection, officer) == 0.1
    assert [e["change"] for e in log(Kind.BUDGET_CHANGED)] == ["set", "lowered"]
    with pytest.raises(BudgetExceeded):
        reserve(collection)


@pytest.mark.parametrize(("factor", "delta"), [(2.0, DELTA), (0.5, 2 * DELTA)])
def test_raising_epsilon_or_delta_takes_a_second_person(
    collection: Collection, officer: User, factor: float, delta: float
) -> None:
    before = max_epsilon(collection, officer)
    with pytest.raises(SecondPersonNeeded):
        budget.set_budget(collection, max_epsilon=factor * before, delta=delta, actor=officer)

    assert max_epsilon(collection, officer) == before


def test_a_raise_holds_once_another_officer_approves(
    collection: Collection, officer: User, second: User, log: Log
) -> None:
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    with pytest.raises(SecondPersonNeeded):
        budget.approve_raise(proposal.pk, actor=officer)
    assert max_epsilon(collection, officer) < 9.0

    budget.approve_raise(proposal.pk, actor=second)

    assert max_epsilon(collection, officer) == 9.0
    changes = [e["change"] for e in log(Kind.BUDGET_CHANGED)]
    assert changes == ["set", "raise proposed", "raised"]


def test_who_has_not_the_right_neither_sets_nor_proposes_nor_approves(
    collection: Collection, officer: User
) -> None:
    clerk = make_user(is_staff=True)
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    attempts: list[Callable[[], object]] = [
        lambda: budget.set_budget(collection, max_epsilon=0.1, delta=DELTA, actor=clerk),
        lambda: budget.propose_raise(collection, max_epsilon=9, delta=DELTA, actor=clerk),
        lambda: budget.approve_raise(proposal.pk, actor=clerk),
        lambda: budget.decline_raise(proposal.pk, actor=clerk),
    ]
    for attempt in attempts:
        with pytest.raises(AccessDenied):
            attempt()


def test_a_raise_of_a_budget_that_was_changed_since_is_not_approved(
    collection: Collection, officer: User, second: User
) -> None:
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    budget.set_budget(collection, max_epsilon=0.1, delta=DELTA, actor=officer)

    with pytest.raises(AccessDenied):
        budget.approve_raise(proposal.pk, actor=second)
    assert max_epsilon(collection, officer) == 0.1


def test_a_raise_of_who_lost_the_right_is_not_approved(
    collection: Collection, officer: User, second: User
) -> None:
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    officer.user_permissions.clear()

    with pytest.raises(AccessDenied):
        budget.approve_raise(proposal.pk, actor=second)


def test_who_got_the_right_after_the_proposal_is_no_second_person(
    collection: Collection, officer: User, var: Path
) -> None:
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    late = make_officer()

    with pytest.raises(SecondPersonNeeded, match="before the proposal"):
        budget.approve_raise(proposal.pk, actor=late)
    refused_by_the_database(var, late, proposal)


@pytest.mark.parametrize("maker", ["who proposes", "who approves"])
def test_an_account_that_one_of_the_two_changed_is_no_second_person(
    collection: Collection, officer: User, second: User, var: Path, maker: str
) -> None:
    one, two = (officer, second) if maker == "who proposes" else (second, officer)
    audit.record(Kind.USER_CHANGED, actor=one, user=two.pk, change="added", fields=None)
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)

    with pytest.raises(SecondPersonNeeded, match="the other's account"):
        budget.approve_raise(proposal.pk, actor=second)
    refused_by_the_database(var, second, proposal)


def test_a_changed_account_of_somebody_else_is_no_hindrance(
    collection: Collection, officer: User, second: User
) -> None:
    audit.record(Kind.USER_CHANGED, actor=officer, user=int(f"{second.pk}1"), change="added")
    audit.record(Kind.USER_CHANGED, actor=officer, user=int(f"1{second.pk}"), change="added")
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)

    budget.approve_raise(proposal.pk, actor=second)

    assert max_epsilon(collection, officer) == 9.0


def test_who_proposes_does_not_name_who_may_approve(
    collection: Collection, officer: User, second: User
) -> None:
    with access.acting_as(officer, Purpose.ADMINISTRATION):
        proposal = BudgetProposal.objects.create(
            collection=collection,
            max_epsilon=9.0,
            delta=DELTA,
            from_max_epsilon=1.0,
            from_delta=DELTA,
            proposed_by=officer,
            may_approve=[officer.pk, make_user().pk],
        )
        proposal.refresh_from_db()

    assert proposal.may_approve == [second.pk]


def refused_by_the_database(var: Path, approver: User, proposal: BudgetProposal) -> None:
    with database.connect(var, "web") as web:
        as_actor(web, approver)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="second person"):
            web.execute("SELECT cloister_approve_raise(%s)", [proposal.pk])


def test_a_declined_raise_is_decided(collection: Collection, officer: User, second: User) -> None:
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    with pytest.raises(SecondPersonNeeded, match="waits"):
        budget.propose_raise(collection, max_epsilon=8.0, delta=DELTA, actor=officer)
    budget.decline_raise(proposal.pk, actor=officer)

    with pytest.raises(AccessDenied):
        budget.approve_raise(proposal.pk, actor=second)
    with access.acting_as(officer, Purpose.ADMINISTRATION):
        assert BudgetProposal.objects.get().outcome == Outcome.DECLINED


# The second lock, with SQL of one's own

LEDGER = ["retrieval_budget", "retrieval_budgetproposal", "retrieval_reservation"]


@pytest.mark.parametrize("table", [*LEDGER, "retrieval_certificate", "retrieval_subjectgroup"])
def test_without_context_or_right_there_are_no_rows(
    collection: Collection, officer: User, table: str
) -> None:
    reserve(collection)
    budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)

    def rows() -> int:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table}")
            return int(cursor.fetchone()[0])

    assert rows() == 0
    with access.acting_as(make_user(is_staff=True), Purpose.ADMINISTRATION):
        assert rows() == 0
    with access.acting_as(officer, Purpose.ADMINISTRATION):
        assert rows() == (1 if table in LEDGER else 0)
    with database.role("worker"), access.processing(collection.pk + 1):
        if table != "retrieval_budgetproposal":
            assert rows() == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE retrieval_budget SET max_epsilon = 99",
        "INSERT INTO retrieval_budget (collection_id, max_epsilon, delta, changed_at)"
        " VALUES (1, 99, 0.1, now())",
        "DELETE FROM retrieval_budget",
        "DELETE FROM retrieval_reservation",
        "DELETE FROM retrieval_budgetproposal",
        "UPDATE retrieval_budgetproposal SET max_epsilon = 99",
        "UPDATE retrieval_certificate SET document = ''",
        "DELETE FROM retrieval_certificate",
        "DELETE FROM retrieval_subjectgroupmember",
        "UPDATE retrieval_subjectgroupmember SET group_id = 1",
        "UPDATE retrieval_reservation SET plan = '[]'",
    ],
)
@pytest.mark.parametrize("role", ["web", "worker"])
def test_no_role_writes_there(role: str, statement: str, var: object) -> None:
    with (
        database.connect(var, role) as connected,  # type: ignore[arg-type]
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connected.execute(statement)


def as_actor(web: psycopg.Connection[tuple[object, ...]], user: User) -> None:
    web.execute("SELECT set_config('cloister.actor', %s, false)", [str(user.pk)])


def test_the_database_itself_asks_for_the_second_person(
    collection: Collection, officer: User, var: object
) -> None:
    proposal = budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)
    with database.connect(var, "web") as web:  # type: ignore[arg-type]
        as_actor(web, officer)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="second person"):
            web.execute("SELECT cloister_approve_raise(%s)", [proposal.pk])
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="second person"):
            web.execute("SELECT cloister_set_budget(%s, 9, 1e-5)", [collection.pk])
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            web.execute("UPDATE retrieval_budgetproposal SET outcome = 'approved'")
        as_actor(web, make_user())
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no right"):
            web.execute("SELECT cloister_approve_raise(%s)", [proposal.pk])
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no right"):
            web.execute("SELECT cloister_set_budget(%s, 0.1, 1e-5)", [collection.pk])


def test_the_same_person_twice_breaks_a_constraint(
    collection: Collection, officer: User, superuser: psycopg.Connection[tuple[object, ...]]
) -> None:
    budget.propose_raise(collection, max_epsilon=9.0, delta=DELTA, actor=officer)

    with pytest.raises(psycopg.errors.CheckViolation, match="raise_is_approved_by_another"):
        superuser.execute(
            "UPDATE retrieval_budgetproposal SET outcome = 'approved', decided_at = now(),"
            " decided_by_id = proposed_by_id"
        )


@pytest.mark.parametrize("epsilon", ["'NaN'", "'Infinity'", "-1", "101"])
def test_a_budget_is_a_number_that_means_something(
    collection: Collection, superuser: psycopg.Connection[tuple[object, ...]], epsilon: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        superuser.execute(f"UPDATE retrieval_budget SET max_epsilon = {epsilon}")


Worker = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def open_training(collection: Collection) -> Reservation:
    """Of two steps, one of which is claimed."""
    made = reserve(collection, steps(2))
    with database.role("worker"):
        budget.claim(made, 1)
    return made


def as_training(worker: Worker, reservation: Reservation, *, of: Reservation | None = None) -> None:
    worker.execute(
        "SELECT set_config('cloister.collection', %s, false),"
        " set_config('cloister.training', %s, false)",
        [str(reservation.collection_id), str((of or reservation).pk)],
    )


CLOSES = "closed_at = now(), closed_event = 1, closed_total_epsilon = epsilon"
ONE = '[{"noise_multiplier": 10.0, "sample_rate": 1.0, "steps": 1}]'
TWO = ONE.replace('"steps": 1', '"steps": 2')


FORGED = [
    ("state = 'settled', spent = '[]', epsilon = 0, " + CLOSES, "no step left out"),
    (f"state = 'settled', spent = '{ONE.replace('10.0', '99.0')}', {CLOSES}", "part of the"),
    (f"state = 'settled', spent = '{ONE.replace('1}', '3}')}', {CLOSES}", "part of the plan"),
    (f"state = 'settled', spent = '{TWO}', epsilon = 0, {CLOSES}", "charged in full"),
    (f"state = 'settled', spent = '{ONE}', epsilon = 9, {CLOSES}", "and nothing else"),
    (f"state = 'settled', spent = '{ONE}', steps_claimed = 0, {CLOSES}", "and nothing else"),
    (f"state = 'settled', spent = '{ONE}', closed_at = now()", "and nothing else"),
    (f"state = 'void', epsilon = 0, {CLOSES}", "charged in full"),
    ("epsilon = 0", "claims its steps and resumes once"),
    ("steps_claimed = 0", "claims its steps and resumes once"),
    ("steps_claimed = 3", "claims its steps and resumes once"),
]


def test_the_database_lets_a_training_charge_nothing_but_what_ran(
    open_training: Reservation, var: Path
) -> None:
    with database.connect(var, "worker") as worker:
        as_training(worker, open_training)
        for change, reason in FORGED:
            with pytest.raises(psycopg.errors.CheckViolation, match=reason):
                worker.execute(f"UPDATE retrieval_reservation SET {change}")
        settled = f"UPDATE retrieval_reservation SET state = 'settled', spent = '{ONE}', {CLOSES}"
        assert worker.execute(settled).rowcount == 1


def test_the_database_lets_a_training_resume_once(open_training: Reservation, var: Path) -> None:
    resumes = "UPDATE retrieval_reservation SET resumed_at = clock_timestamp()"
    with database.connect(var, "worker") as worker:
        as_training(worker, open_training)
        worker.execute(resumes)
        with pytest.raises(psycopg.errors.CheckViolation, match="resumes once"):
            worker.execute(resumes)
        with pytest.raises(psycopg.errors.CheckViolation, match="resumes once"):
            worker.execute("UPDATE retrieval_reservation SET resumed_at = NULL")


def test_the_database_lets_a_training_close_no_other_one(
    open_training: Reservation, collection: Collection, var: Path
) -> None:
    settles = f"UPDATE retrieval_reservation SET state = 'settled', spent = '{TWO}', {CLOSES}"
    other = Reservation(pk="00000000-0000-0000-0000-000000000001", collection=collection)
    with database.connect(var, "worker") as worker:
        as_training(worker, open_training, of=other)
        with pytest.raises(psycopg.errors.CheckViolation, match="another training"):
            worker.execute(settles)


def test_the_database_reserves_no_more_than_the_budget(
    open_training: Reservation, var: Path
) -> None:
    copied = (
        "INSERT INTO retrieval_reservation (id, collection_id, state, unit, units, plan, delta,"
        " epsilon, budget_delta, total_epsilon, reserved_at, reserved_event, steps_claimed)"
        " SELECT gen_random_uuid(), collection_id, 'open', unit, units, plan, delta, epsilon,"
        " budget_delta, {}, now(), 1, {} FROM retrieval_reservation"
    )
    with database.connect(var, "worker") as worker:
        as_training(worker, open_training)
        with pytest.raises(psycopg.errors.CheckViolation, match="does not allow"):
            worker.execute(copied.format("total_epsilon * 2", 0))
        with pytest.raises(psycopg.errors.CheckViolation, match="all of its plan"):
            worker.execute(copied.format("total_epsilon", 1))


def test_the_database_refuses_less_than_what_the_mechanisms_provably_spend(
    collection: Collection,
) -> None:
    """The worker's role says what ε is; the database has a bound of its own."""
    with pytest.raises(IntegrityError, match="spend more than is charged"):
        reserve(collection, compose=lambda *_: 0.01)
    made = reserve(collection, steps(2))
    with database.role("worker"):
        budget.claim(made, 1)
        with pytest.raises(IntegrityError, match="the mechanisms spend more"):
            budget.settle(made, [steps(1)], actor=None, compose=lambda *_: 0.01)
        alone = [compose([steps(1)], DELTA)]
        with pytest.raises(IntegrityError, match="all trainings together"):
            budget.settle(
                made, [steps(1)], actor=None, compose=lambda *_: alone.pop() if alone else 0.01
            )
    settle(made, steps(1))


def test_nobody_deletes_a_reservation_by_mistake(
    open_training: Reservation, superuser: psycopg.Connection[tuple[object, ...]]
) -> None:
    for statement in (
        "DELETE FROM retrieval_reservation",
        "TRUNCATE retrieval_reservation CASCADE",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="stays in the ledger"):
            superuser.execute(statement)


def test_steps_are_claimed_upwards_within_the_plan_while_it_is_open(
    open_training: Reservation,
) -> None:
    with database.role("worker"):
        assert budget.claim(open_training, 2) == 1
        for steps_taken in (1, 2, 3):  # the same again is somebody else's step
            with pytest.raises(BudgetExceeded, match="these steps"):
                budget.claim(open_training, steps_taken)
        budget.void(open_training, actor=None, compose=compose)
        with pytest.raises(BudgetExceeded, match="these steps"):
            budget.claim(open_training, 2)
