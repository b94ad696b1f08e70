"""The ledger of privacy: what was spent on a collection, and what may still be.

Every private training reserves before its first gradient and settles after its last. Composition
is the worker's accountant, handed in as `compose`: nothing here knows how ε follows from noise.
What is open or void counts in full; only what a training proves not to have run is given back.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection
from django.utils import timezone

from retrieval import access, audit
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
    SubjectGroup,
    SubjectGroupMember,
    Unit,
    User,
)

PURPOSE = Purpose.ADMINISTRATION
RIGHT = "retrieval.change_budget"
"""The privacy officer's: sets and lowers budgets, proposes raises, approves those of others."""


@dataclass(frozen=True)
class Mechanism:
    """`steps` Poisson-sampled Gaussian mechanisms in a row, all with the same noise.

    noise_multiplier: σ, the noise's standard deviation over the sensitivity of one unit; > 0.
    sample_rate: q in (0, 1], the probability with which a unit takes part in a step.
    q = 1 and one step is the plain Gaussian mechanism.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError("a mechanism without noise has no epsilon")
        if not 0 < self.sample_rate <= 1:
            raise ValueError("a sample rate lies in (0, 1]")
        if self.steps < 1:
            raise ValueError("a mechanism runs at least once")


Compose = Callable[[Sequence[Mechanism], float], float]
"""ε at the given δ of all the mechanisms on the same data, one after the other."""


# The officer's side: in the web role, for the purpose of administration.


def set_budget(collection: Collection, *, max_epsilon: float, delta: float, actor: User) -> None:
    """Set a collection's first budget, or lower one, at once.

    Raises SecondPersonNeeded where ε or δ would be more than before: see `propose_raise`.
    """
    _require_officer(actor)
    with access.acting_as(actor, PURPOSE):
        before = Budget.objects.filter(collection=collection).first()
        if before and (max_epsilon > before.max_epsilon or delta > before.delta):
            raise SecondPersonNeeded("a budget is raised by two people")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT cloister_set_budget(%s, %s, %s)", [collection.pk, max_epsilon, delta]
            )
        _record_change(
            actor, collection.pk, max_epsilon, delta, change="lowered" if before else "set"
        )


def propose_raise(
    collection: Collection, *, max_epsilon: float, delta: float, actor: User
) -> BudgetProposal:
    """Ask for a larger budget; it holds once somebody else approves.

    Raises SecondPersonNeeded where a proposal is open already.
    """
    _require_officer(actor)
    try:
        with access.acting_as(actor, PURPOSE):
            before = Budget.objects.get(collection=collection)
            proposal = BudgetProposal.objects.create(
                collection=collection,
                max_epsilon=max_epsilon,
                delta=delta,
                from_max_epsilon=before.max_epsilon,
                from_delta=before.delta,
                proposed_by=actor,
            )
            _record_change(
                actor,
                collection.pk,
                max_epsilon,
                delta,
                change="raise proposed",
                proposal=proposal.pk,
            )
    except IntegrityError as error:
        raise SecondPersonNeeded("a raise of that budget waits to be decided") from error
    return proposal


def approve_raise(proposal_id: int, *, actor: User) -> None:
    """Let a proposed raise hold.

    Raises SecondPersonNeeded for who proposed it, for who got the right only afterwards, and where
    one of the two made or changed the other's account: a second name is no second person. Raises
    AccessDenied where it is not open or the budget was changed since.
    """
    _require_officer(actor)
    with access.acting_as(actor, PURPOSE):
        proposal = _open_proposal(proposal_id)
        if proposal.proposed_by_id == actor.pk:
            raise SecondPersonNeeded("a raise is approved by somebody else")
        with connection.cursor() as cursor:
            cursor.execute("SELECT cloister_is_second_person(%s)", [proposal_id])
            (is_second,) = cursor.fetchone()
            if not is_second:
                raise SecondPersonNeeded(
                    f"user {actor.pk} did not hold the right before the proposal, or one of the two"
                    " has changed the other's account"
                )
            cursor.execute("SELECT cloister_approve_raise(%s)", [proposal_id])
            (applied,) = cursor.fetchone()
        if not applied:
            raise AccessDenied("the budget is not as it was when the raise was proposed")
        _record_change(
            actor,
            proposal.collection_id,
            proposal.max_epsilon,
            proposal.delta,
            change="raised",
            proposal=proposal_id,
        )


def decline_raise(proposal_id: int, *, actor: User) -> None:
    """Close a proposal; who made it may take it back this way."""
    _require_officer(actor)
    with access.acting_as(actor, PURPOSE):
        proposal = _open_proposal(proposal_id)
        closed = BudgetProposal.objects.filter(pk=proposal_id, outcome=Outcome.OPEN).update(
            outcome=Outcome.DECLINED, decided_by=actor, decided_at=timezone.now()
        )
        if not closed:
            raise AccessDenied("that proposal is decided")
        _record_change(
            actor,
            proposal.collection_id,
            proposal.max_epsilon,
            proposal.delta,
            change="raise declined",
            proposal=proposal_id,
        )


def _require_officer(actor: User) -> None:
    if not actor.has_perm(RIGHT):
        raise AccessDenied(f"user {actor.pk} does not decide about budgets")


def _open_proposal(proposal_id: int) -> BudgetProposal:
    proposal = BudgetProposal.objects.filter(pk=proposal_id, outcome=Outcome.OPEN).first()
    if proposal is None:
        raise AccessDenied("there is no such open proposal")
    return proposal


def _record_change(
    actor: User,
    collection_id: int,
    max_epsilon: float,
    delta: float,
    *,
    change: str,
    proposal: int | None = None,
) -> None:
    audit.record_in_transaction(
        Kind.BUDGET_CHANGED,
        actor=actor,
        purpose=PURPOSE,
        collection=collection_id,
        max_epsilon=max_epsilon,
        delta=delta,
        change=change,
        proposal=proposal,
    )


# The training's side: in the worker's role.


def open_subject_group(
    collection: Collection, label: str, subjects: Iterable[Subject]
) -> SubjectGroup:
    """Set subjects apart, for good. Raises IntegrityError where one is in a group already:
    groups that share nobody are what lets each spend a budget of its own."""
    with access.processing(collection.pk):
        group = SubjectGroup.objects.create(collection=collection, label=label)
        # Read again here: row-level security leaves out those of other collections.
        known = Subject.objects.filter(collection=collection, pk__in=[s.pk for s in subjects])
        SubjectGroupMember.objects.bulk_create(
            SubjectGroupMember(subject=subject, group=group, collection=collection)
            for subject in known
        )
    return group


def reserve(
    collection: Collection,
    *,
    plan: Sequence[Mechanism],
    delta: float,
    unit: Unit,
    units: int,
    actor: User | None,
    compose: Compose,
    subject_group: SubjectGroup | None = None,
) -> Reservation:
    """Charge a training's whole plan before it begins.

    units: N, the number of privacy units in its data; δ must be less than 1/N. Raises
    BudgetExceeded where the plan, on top of everything charged so far, is more than the
    collection's budget; the refusal is on the log. Two that reserve at once wait for each other.
    """
    if not plan:
        raise ValueError("a plan has at least one mechanism")
    reservation = Reservation(
        collection=collection,
        subject_group=subject_group,
        unit=unit,
        units=units,
        plan=_as_json(plan),
        delta=delta,
        reserved_by=actor,
    )
    try:
        with access.processing(collection.pk):
            _reserve_locked(reservation, actor, compose)
    except BudgetExceeded as error:
        audit.record(Kind.BUDGET_REFUSED, actor=actor, collection=collection.pk, reason=str(error))
        raise
    return reservation


def _reserve_locked(new: Reservation, actor: User | None, compose: Compose) -> None:
    budget = _locked(new.collection_id)
    _require_comparable(new, budget)
    new.budget_delta = budget.delta
    new.epsilon = _finite(compose(_merged(charged(new)), new.delta))
    new.total_epsilon = _total([*_charges(new), _charge(new)], compose, budget.delta)
    if max(new.epsilon, new.total_epsilon) > budget.max_epsilon:
        raise BudgetExceeded(
            f"ε would be {new.total_epsilon:.4g}, for this training alone {new.epsilon:.4g},"
            f" and the budget is {budget.max_epsilon:g}"
        )
    new.reserved_event = audit.record_in_transaction(
        Kind.BUDGET_RESERVED,
        actor=actor,
        collection=new.collection_id,
        reservation=new.pk,
        subject_group=new.subject_group_id,
        epsilon=new.epsilon,
        delta=new.delta,
        total_epsilon=new.total_epsilon,
        max_epsilon=budget.max_epsilon,
        budget_delta=budget.delta,
        unit=str(new.unit),
        units=new.units,
        plan=new.plan,
    )
    new.save(force_insert=True)


def resume(reservation: Reservation, *, actor: User | None) -> None:
    """Let an interrupted training go on under what it reserved. Once, and on the log.

    Raises BudgetExceeded where it was resumed before or is closed: a state that could be put
    back again and again would draw fresh noise each time, and average it away.
    """
    with access.processing(reservation.collection_id, training=reservation.pk):
        resumed = Reservation.objects.filter(
            pk=reservation.pk, state=Charge.OPEN, resumed_at__isnull=True
        ).update(resumed_at=timezone.now())
        if not resumed:
            raise BudgetExceeded(f"reservation {reservation.pk} was resumed before")
        audit.record_in_transaction(
            Kind.BUDGET_RESUMED,
            actor=actor,
            collection=reservation.collection_id,
            reservation=reservation.pk,
            steps_claimed=reservation.steps_claimed,
        )


def claim(reservation: Reservation, steps: int) -> int:
    """Note that the training's first `steps` steps may touch the data from now on.

    Called before they are taken, so that neither a state put back from an old copy nor a second
    process under the same reservation can take them again. Returns how many were noted before.
    Raises BudgetExceeded where that is as many or more, the plan has fewer, or the reservation is
    closed.
    """
    planned = sum(one.steps for one in _mechanisms(reservation.plan))
    with access.processing(reservation.collection_id, training=reservation.pk):
        found = (
            Reservation.objects.select_for_update()
            .filter(pk=reservation.pk, state=Charge.OPEN)
            .first()
        )
        if found is None or not found.steps_claimed < steps <= planned:
            raise BudgetExceeded(f"reservation {reservation.pk} does not have these steps to take")
        Reservation.objects.filter(pk=reservation.pk).update(steps_claimed=steps)
    return found.steps_claimed


def settle(
    reservation: Reservation, spent: Sequence[Mechanism], *, actor: User | None, compose: Compose
) -> Reservation:
    """Charge what ran instead of what was planned. Once, and never more or other than planned.

    spent: what the training's accountant saw run. Raises BudgetExceeded where it is not part of
    the plan, or the reservation is closed: then the charge stays as it is.
    """
    planned, ran = _steps(_mechanisms(reservation.plan)), _steps(spent)
    if any(steps > planned[kind] for kind, steps in ran.items()):
        raise BudgetExceeded(f"reservation {reservation.pk} ran what it had not reserved")
    return _close(reservation.pk, reservation.collection_id, list(spent), actor, compose)


def void(reservation: Reservation, *, actor: User | None, compose: Compose) -> Reservation:
    """Close the reservation of a training that cannot prove what it spent: all stays charged."""
    return _close(reservation.pk, reservation.collection_id, None, actor, compose)


def _close(
    reservation_id: UUID,
    collection_id: int,
    spent: list[Mechanism] | None,
    actor: User | None,
    compose: Compose,
) -> Reservation:
    with access.processing(collection_id, training=reservation_id):
        _locked(collection_id)
        found = Reservation.objects.filter(pk=reservation_id, state=Charge.OPEN).first()
        if found is None:
            raise BudgetExceeded(f"reservation {reservation_id} is closed")
        found.state = Charge.VOID if spent is None else Charge.SETTLED
        found.spent = None if spent is None else _as_json(spent)
        if spent is not None:
            found.epsilon = _finite(compose(_merged(spent), found.delta)) if spent else 0.0
        found.closed_total_epsilon = _total(
            # At the δ that the certificate names, though the officer lowered it since.
            [*_charges(found), _charge(found)],
            compose,
            found.budget_delta,
        )
        found.closed_at = timezone.now()
        found.closed_event = audit.record_in_transaction(
            Kind.BUDGET_VOIDED if spent is None else Kind.BUDGET_SETTLED,
            actor=actor,
            collection=collection_id,
            reservation=reservation_id,
            epsilon=found.epsilon,
            delta=found.delta,
            total_epsilon=found.closed_total_epsilon,
            spent=found.spent,
        )
        found.save(
            update_fields=[
                "state",
                "spent",
                "epsilon",
                "closed_total_epsilon",
                "closed_at",
                "closed_event",
            ]
        )
    return found


def charged(reservation: Reservation) -> list[Mechanism]:
    """What counts against the budget: what ran where that was proven, else the whole plan."""
    if reservation.state == Charge.SETTLED:
        return _mechanisms(reservation.spent)
    return _mechanisms(reservation.plan)


def _locked(collection_id: int) -> Budget:
    """The budget's row, locked until this transaction ends."""
    found = list(Budget.objects.raw("SELECT * FROM cloister_lock_budget(%s)", [collection_id]))
    if not found:
        raise BudgetExceeded(f"collection {collection_id} has no privacy budget")
    return found[0]


def _require_comparable(new: Reservation, budget: Budget) -> None:
    """Refuse numbers that would say nothing beside those of the ledger."""
    if new.units < 1 or not 0 < new.delta < 1 / new.units or not budget.delta < 1 / new.units:
        raise BudgetExceeded(f"δ must be less than 1/{new.units}, the budget's as well")
    if new.delta > budget.delta:
        raise BudgetExceeded(f"δ {new.delta:g} is more than the budget's {budget.delta:g}")
    # Hiding one image of many hides no person: the two kinds of ε do not add up.
    known = Subject.objects.filter(collection=new.collection_id)
    if new.unit == Unit.IMAGE and known.exists():
        raise BudgetExceeded("the collection knows its subjects: they are the unit")
    earlier = Reservation.objects.filter(collection=new.collection_id)
    if earlier.exclude(unit=new.unit).exists():
        raise BudgetExceeded("earlier trainings were charged by another unit")
    group = new.subject_group
    if group and (group.collection_id != new.collection_id or new.unit != Unit.SUBJECT):
        raise BudgetExceeded("a subject group is of the collection, and its unit the subject")


type_of_charge = tuple[int | None, Sequence[Mechanism]]


def _charge(reservation: Reservation) -> type_of_charge:
    return reservation.subject_group_id, charged(reservation)


def _charges(besides: Reservation) -> list[type_of_charge]:
    """What the collection's other reservations are charged."""
    rows = Reservation.objects.filter(collection=besides.collection_id).exclude(pk=besides.pk)
    return [_charge(row) for row in rows]


def charged_with(closed: Reservation) -> list[list[Mechanism]]:
    """All that was charged when `closed` was closed, by group of subjects: each list is what a
    subject of one group was exposed to, and the last what one of none was.

    From the ledger, whose numbers on the log say what came before what. Inside `access`.
    """
    moment = closed.closed_event
    rows = Reservation.objects.filter(
        collection=closed.collection_id, reserved_event__lt=moment
    ).order_by("reserved_event")
    charges: list[type_of_charge] = []
    for row in rows:
        was_closed = row.closed_event is not None and row.closed_event <= (moment or 0)
        mechanisms = charged(row) if was_closed else _mechanisms(row.plan)
        charges.append((row.subject_group_id, mechanisms))
    return _by_group(charges)


def _total(charges: Iterable[type_of_charge], compose: Compose, delta: float) -> float:
    """ε of the subject that is worst off: trainings on all, and those on its own group."""
    worst = 0.0
    for mechanisms in _by_group(charges):
        if mechanisms:
            worst = max(worst, _finite(compose(mechanisms, delta)))
    return worst


def _by_group(charges: Iterable[type_of_charge]) -> list[list[Mechanism]]:
    """Groups share no subject (a database constraint), so between them parallel composition holds
    (McSherry 2009, theorem 4); with a training on the whole collection everything adds up.
    """
    by_group: dict[int | None, list[Mechanism]] = defaultdict(list)
    for group_id, mechanisms in charges:
        by_group[group_id].extend(mechanisms)
    on_all = by_group.pop(None, [])
    return [_merged([*on_all, *own]) for own in [*by_group.values(), []]]


def _finite(epsilon: float) -> float:
    """An accountant that knows no bound gives none: NaN would pass a comparison."""
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise BudgetExceeded("the accountant names no finite epsilon")
    return epsilon


def _steps(mechanisms: Iterable[Mechanism]) -> Counter[tuple[float, float]]:
    steps: Counter[tuple[float, float]] = Counter()
    for one in mechanisms:
        steps[one.noise_multiplier, one.sample_rate] += one.steps
    return steps


def _merged(mechanisms: Iterable[Mechanism]) -> list[Mechanism]:
    """Equal ones put together: composition does not depend on the order."""
    return [Mechanism(*kind, steps) for kind, steps in sorted(_steps(mechanisms).items())]


def _as_json(mechanisms: Iterable[Mechanism]) -> list[dict[str, Any]]:
    return [asdict(one) for one in mechanisms]


def _mechanisms(rows: Any) -> list[Mechanism]:
    return [Mechanism(**row) for row in rows or []]
