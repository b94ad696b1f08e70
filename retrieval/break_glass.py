"""Access in an emergency: opened by one person, told at once, and reviewed by a second one.

It opens what a searcher may, in one collection, for emergency treatment (ETREAT) and for the
hour that the database sets (migration 0011). Original pixels are opened so and in no other way.
Whoever calls `break_glass` has just made sure again who is asking.
"""

from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.db import connection
from django.db.models import F, Q
from django.utils import timezone

from retrieval import access, audit, holds, keys, officer
from retrieval.errors import AccessDenied, SecondPersonNeeded
from retrieval.models import (
    Authenticator,
    BreakGlass,
    Collection,
    Hold,
    HoldReason,
    Kind,
    Purpose,
    User,
    Verdict,
)

RIGHT: Final = "retrieval.review_breakglass"
"""The privacy officer's: reads the reasons, closes what is open, says whether it was justified."""
LEAST_REASON_CHARS: Final = 10
MAX_REASON_CHARS: Final = 1000
SETTLED_AFTER: Final = timedelta(days=1)
"""How long an account has had a second factor before it opens anything in an emergency: who found
a password would set one up on the spot, and its owner is to notice first. A new account
sets its own up with the password that was handed over, and need not wait; one that a directory made
by itself at a first sign-in waits like the others."""


def is_barred(actor: User) -> bool:
    """Whether this account breaks no glass now: held, or an old one with a new second factor."""
    settled = Authenticator.objects.filter(
        Q(enrolled_at__lte=timezone.now() - SETTLED_AFTER)
        | Q(enrolled_at__lte=F("user__date_joined") + SETTLED_AFTER)
        & ~Q(user__password__startswith=UNUSABLE_PASSWORD_PREFIX),
        user=actor,
    )
    return Hold.objects.filter(user=actor, lifted_at=None).exists() or not settled.exists()


def break_glass(name: str, *, reason: str, actor: User, originals: bool = False) -> BreakGlass:
    """Open the collection `name` to `actor` for a while. On the log, and told to the officer.

    Raises AccessDenied, on the log as well, where there is no such collection, no active account,
    or one that is barred; ValueError where no reason is given; AuditUnavailable.
    """
    reason = reason.strip()
    if not LEAST_REASON_CHARS <= len(reason) <= MAX_REASON_CHARS:
        raise ValueError("a reason is a sentence")
    collection = Collection.objects.filter(name=name).first()
    if collection is None or not actor.is_active or is_barred(actor):
        audit.record(Kind.GLASS_REFUSED, actor=actor, purpose=Purpose.EMERGENCY)
        raise AccessDenied(f"user {actor.pk} can open no such collection")
    broken_id = uuid4()
    with access.acting_as(actor, Purpose.EMERGENCY):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT cloister_break_glass(%s, %s, %s, %s)",
                [
                    broken_id,
                    collection.pk,
                    originals,
                    keys.seal_reason(reason, context=broken_id.bytes),
                ],
            )
        broken = BreakGlass.objects.get(pk=broken_id)
        audit.record_in_transaction(
            Kind.GLASS_BROKEN,
            actor=actor,
            purpose=Purpose.EMERGENCY,
            break_glass=broken_id,
            collection=collection.pk,
            originals=originals,
            until=broken.open_until.isoformat(),
        )
    officer.tell(
        "break-glass",
        f"User {broken.user_id} broke the glass of collection {broken.collection_id}"
        f" ({broken.pk}). It waits for your review.",
    )
    return broken


def open_to(actor: User) -> list[BreakGlass]:
    """What `actor` has open now, the newest first."""
    with access.acting_as(actor, Purpose.EMERGENCY):
        rows = BreakGlass.objects.filter(user=actor, closed_at=None).select_related("collection")
        return [row for row in rows.order_by("-opened_at") if row.is_open]


def require_originals(actor: User, purpose: Purpose, collection_id: int) -> None:
    """Raise AccessDenied unless `actor` broke the glass of that collection for its originals."""
    opened = access.opened_by_glass(actor, originals=True)
    if purpose != Purpose.EMERGENCY or collection_id not in opened:
        raise AccessDenied(f"user {actor.pk} may see no original there")


def close(broken_id: UUID, *, actor: User) -> None:
    """End it before its time: its breaker, or an officer. Raises AccessDenied."""
    with access.acting_as(actor, Purpose.EMERGENCY):
        if not _call("cloister_close_glass(%s)", [broken_id]):
            raise AccessDenied(f"user {actor.pk} has no such break-glass open")
        audit.record_in_transaction(
            Kind.GLASS_CLOSED, actor=actor, purpose=Purpose.EMERGENCY, break_glass=broken_id
        )


def review(broken_id: UUID, verdict: Verdict, *, actor: User) -> None:
    """Say whether it was justified. Where it was not, what is still open is closed, and its
    breaker breaks no other glass until an officer lifts the hold.

    Raises AccessDenied where there is none to review or `actor` has no right to, and
    SecondPersonNeeded where it is the actor's own.
    """
    with access.acting_as(actor, Purpose.ADMINISTRATION):
        broken = BreakGlass.objects.filter(pk=broken_id).first()
        if broken is None or not actor.has_perm(RIGHT):
            raise AccessDenied(f"user {actor.pk} has no such break-glass to review")
        if broken.user_id == actor.pk:
            raise SecondPersonNeeded("break-glass is reviewed by a second person")
        if not _call("cloister_review_glass(%s, %s)", [broken_id, verdict]):
            raise AccessDenied("it was reviewed already")
        audit.record_in_transaction(
            Kind.GLASS_REVIEWED,
            actor=actor,
            purpose=Purpose.ADMINISTRATION,
            break_glass=broken_id,
            user=broken.user_id,
            verdict=verdict.value,
        )
        if verdict is Verdict.NOT_JUSTIFIED:
            breaker = User.objects.get(pk=broken.user_id)
            holds.place(breaker, HoldReason.BREAK_GLASS, by=actor)


def reason_of(broken: BreakGlass) -> str:
    """Why, in the person's own words. Whoever shows it has put the reading on the log."""
    return keys.unseal_reason(bytes(broken.sealed_reason), context=broken.pk.bytes)


def count_unreviewed(actor: User) -> int:
    """How many wait for this officer's review; 0 for those who may not. In any transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT cloister_unreviewed_glass(%s)", [actor.pk])
        (count,) = cursor.fetchone()
    return int(count)


def _call(function: str, arguments: list[str | UUID]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}", arguments)
        (done,) = cursor.fetchone()
    return bool(done)
