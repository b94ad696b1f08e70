"""Accounts that open nothing until a second person says that they may.

Whoever sets another's password or takes a second factor away could sign in as that person. So the
account is held, in both locks, until somebody else has made sure who uses it. A break-glass that
was not justified holds the way through the glass alone.
"""

from functools import partial

from django.db import connection, transaction
from django.db.models import Q

from retrieval import access, audit, officer
from retrieval.errors import AccessDenied, SecondPersonNeeded
from retrieval.models import Hold, HoldReason, Kind, Purpose, User

RIGHT = "retrieval.lift_hold"
"""The privacy officer's, as `break_glass.RIGHT` is."""


def place(user: User, reason: HoldReason, *, by: User) -> Hold:
    """Hold `user`, in the transaction of what was done to it.

    Once that is committed the officer is told, and the person where an address is known.
    """
    with transaction.atomic():
        hold = Hold.objects.create(user=user, reason=reason, held_by=by)
        audit.record_in_transaction(
            Kind.HOLD_PLACED, actor=by, hold=hold.pk, user=user.pk, reason=reason.value
        )
        told = (
            f"User {user.pk} is held by user {by.pk} (hold {hold.pk}: {reason.value})"
            " until a second person lifts it."
        )
        transaction.on_commit(partial(officer.tell, "account held", told, also=user.email))
    return hold


def lift(hold_id: int, *, actor: User) -> None:
    """Say that the account is in the right hands. On the log, refused or not.

    Raises AccessDenied where there is none or `actor` has no right to, and SecondPersonNeeded
    where it is the actor's own account or doing, or was lifted already.
    """
    try:
        _lift(hold_id, actor)
    except (AccessDenied, SecondPersonNeeded):
        audit.record(Kind.HOLD_REFUSED, actor=actor, purpose=Purpose.ADMINISTRATION, hold=hold_id)
        raise


def _lift(hold_id: int, actor: User) -> None:
    with access.acting_as(actor, Purpose.ADMINISTRATION):
        hold = Hold.objects.filter(pk=hold_id).first()
        if hold is None or not actor.has_perm(RIGHT):
            raise AccessDenied(f"user {actor.pk} has no such hold to lift")
        with connection.cursor() as cursor:
            cursor.execute("SELECT cloister_lift_hold(%s)", [hold_id])
            (lifted,) = cursor.fetchone()
        if not lifted:
            raise SecondPersonNeeded("a hold is lifted once, by a second person")
        audit.record_in_transaction(
            Kind.HOLD_LIFTED,
            actor=actor,
            purpose=Purpose.ADMINISTRATION,
            hold=hold_id,
            user=hold.user_id,
            reason=hold.reason,
        )


def count_waiting(actor: User) -> int:
    """How many wait for this officer; 0 for those who may not lift one.

    Not those of closed accounts, nor what somebody else has to lift.
    """
    if not actor.has_perm(RIGHT):
        return 0
    waiting = Hold.objects.filter(lifted_at=None, user__is_active=True).exclude(user=actor)
    return waiting.exclude(~Q(reason=HoldReason.BREAK_GLASS), held_by=actor).count()
