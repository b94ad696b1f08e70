"""Tokens of programs: issued, checked, counted, rotated, revoked. All of it on the log.

A token is `cloister_<number>_<secret><checksum>`: scanners of code and chats find it by its prefix
and know by its checksum (CRC-32) that it is one.
"""

import hmac
import re
import secrets
import string
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NoReturn

from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from retrieval import audit, keys, queue, refusals
from retrieval.errors import AccessDenied, LimitReached, NameTaken, ScopeMissing, TokenRefused
from retrieval.models import ApiToken, Kind, Purpose, Scope, ServiceAccount, User
from retrieval.models.token import LONGEST_LIFE

DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
SECRET_CHARS: Final = 43
"""43 characters of 62: 256 bits."""
CHECKSUM_CHARS: Final = 6
FORM: Final = re.compile(
    rf"cloister_([1-9][0-9]{{0,17}})_[0-9A-Za-z]{{{SECRET_CHARS + CHECKSUM_CHARS}}}"
)
MAX_OVERLAP: Final = timedelta(days=30)
STRANGERS_PER_MINUTE: Final = 100
"""Invented tokens from one address before it is told to wait. Those after are counted as well."""


def open_account(name: str, *, responsible: User, opened_by: User) -> ServiceAccount:
    """An account for a program, with nothing granted. Raises NameTaken and AccessDenied."""
    if responsible.responsible_id is not None:
        raise AccessDenied("a program answers for no other one")
    with transaction.atomic():
        if User.objects.filter(username=name).exists():
            raise NameTaken("there is an account of that name")
        account = ServiceAccount(username=name, responsible=responsible)
        account.set_unusable_password()
        account.save()
        audit.record_in_transaction(
            Kind.USER_CHANGED,
            actor=opened_by,
            user=account.pk,
            responsible=responsible.pk,
            change="service account opened",
        )
    return account


def issue(
    account: ServiceAccount,
    *,
    name: str,
    scopes: Sequence[str],
    collections: Sequence[int],
    purposes: Sequence[str],
    expires_at: datetime,
    issued_by: User,
    **limits: int,
) -> tuple[ApiToken, str]:
    """A new token and its text, which is told this once. `limits`: per_minute, queries_per_day.

    Whoever sees the text can be the program: so its responsible person issues it, and nobody else.
    Raises AccessDenied, and IntegrityError for what no token may be: without an end, say.
    """
    if account.responsible_id != issued_by.pk:
        raise AccessDenied(f"user {issued_by.pk} does not answer for account {account.pk}")
    with transaction.atomic():
        token, text = _make(
            account_id=account.pk,
            name=name,
            scopes=list(scopes),
            collections=list(collections),
            purposes=list(purposes),
            expires_at=expires_at,
            created_by=issued_by,
            **limits,
        )
        _count_uses_of(token)
        _record_change(Kind.TOKEN_ISSUED, token, issued_by)
    return token, text


def rotate(
    token: ApiToken, *, overlap: timedelta, rotated_by: User, expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """The successor of a live token, for as long a life unless told; both hold for `overlap`.

    It may what its predecessor may and shares its limits. Raises TokenRefused for one that ended,
    and for who is neither the program itself nor answers for it.
    """
    with transaction.atomic():
        before = ApiToken.objects.select_for_update(no_key=True).get(pk=token.pk)
        if rotated_by.pk not in (before.account_id, before.account.responsible_id):
            raise TokenRefused(f"token {before.pk} is rotated by who answers for it")
        if not before.is_live:
            raise TokenRefused(f"token {before.pk} has ended")
        now = timezone.now()
        life = min(before.expires_at - before.created_at, LONGEST_LIFE)
        successor, text = _make(
            account_id=before.account_id,
            name=before.name,
            series=before.series,
            predecessor=before,
            scopes=before.scopes,
            collections=before.collections,
            purposes=before.purposes,
            per_minute=before.per_minute,
            queries_per_day=before.queries_per_day,
            created_at=now,
            expires_at=expires_at or now + life,
            created_by=rotated_by,
        )
        before.expires_at = min(before.expires_at, now + min(overlap, MAX_OVERLAP))
        before.save(update_fields=["expires_at"])
        _record_change(Kind.TOKEN_ROTATED, successor, rotated_by, predecessor=before.pk)
    return successor, text


def revoke(token: ApiToken, *, revoked_by: User) -> None:
    """End a token at its next use, and what it rotated itself into, however often.

    Whoever found a leaked one may have rotated it. What a person rotated it into holds; one that
    was revoked stays as it is.
    """
    ended = [token]
    with transaction.atomic():
        for each in ended:
            is_first = ApiToken.objects.filter(pk=each.pk, revoked_at=None)
            if is_first.update(revoked_at=timezone.now()):
                _record_change(Kind.TOKEN_REVOKED, each, revoked_by)
            # Looked up only now: the update waited for a rotation that was under way.
            ended += ApiToken.objects.filter(predecessor=each, created_by=F("account"))


def let_in(text: str, *, address: str | None = None) -> User:
    """The account that a token stands for, bound to that token, with one more request counted.

    address: where it comes from, by which strangers are counted, and nobody else. Raises
    TokenRefused and LimitReached, on the log; AuditUnavailable; ServicesUnavailable.
    """
    if not is_intact(text):
        # Nobody made this: a typing error, or a stranger, who shall not fill the log.
        raise TokenRefused("this is no token")
    number, digest = int(text.split("_")[1]), _digest(text)
    with connection.cursor() as cursor:
        cursor.execute(_LET_IN, {"number": number, "digest": digest})
        cursor.nextset()
        row = cursor.fetchone()
    if row is None or not hmac.compare_digest(row[0], digest):
        _refuse_stranger(number, address)
    _, is_counted, reason, is_active, responsible, *fields = row
    token = ApiToken.from_db(None, _READ, fields)
    account = ServiceAccount.from_db(
        None, ("id", "is_active", "responsible_id"), (token.account_id, is_active, responsible)
    )
    if reason:
        refusals.record(
            Kind.TOKEN_REFUSED, of=str(token.pk), actor=account, token=token.pk, reason=reason
        )
        raise TokenRefused(f"token {token.pk} is {reason}")
    account.token = token
    if not is_counted:
        _refuse(account, "per_minute", 60 // token.per_minute + 1)
    return account


_READ: Final = (
    *("id", "account_id", "series", "scopes", "collections", "purposes"),
    *("per_minute", "queries_per_day"),
)
"""What a request needs to know of its token, in the model's order."""

_LET_IN: Final = f"""
    SET LOCAL synchronous_commit = off;
    WITH shown AS (
        SELECT t.*, a.is_active, a.responsible_id, CASE
            WHEN t.revoked_at IS NOT NULL THEN 'revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            WHEN NOT a.is_active THEN 'of a closed account'
            WHEN r.is_active IS NOT TRUE THEN 'without a person responsible'
            WHEN EXISTS (
                SELECT FROM retrieval_hold h
                WHERE h.user_id = a.id AND h.lifted_at IS NULL AND h.reason <> 'break_glass'
            ) THEN 'of a held account'
            ELSE '' END AS refused
        FROM retrieval_apitoken t
        JOIN retrieval_user a ON a.id = t.account_id
        LEFT JOIN retrieval_user r ON r.id = a.responsible_id
        WHERE t.id = %(number)s
    ), counted AS (
        UPDATE retrieval_tokenuse u SET last_used_at = clock_timestamp(),
            due_at = greatest(u.due_at, clock_timestamp())
                + make_interval(secs => 60.0 / shown.per_minute)
        FROM shown
        WHERE u.series = shown.series AND shown.refused = '' AND shown.digest = %(digest)s
          AND u.due_at <= clock_timestamp() + make_interval(secs => 60 - 60.0 / shown.per_minute)
        RETURNING u.series
    )
    SELECT digest, EXISTS (SELECT FROM counted), refused, is_active, responsible_id,
        {", ".join(_READ)}
    FROM shown
"""  # noqa: S608
"""A token by its number, why it lets nobody in, and one request more where the last minute has
room: GCRA (ITU-T I.371), a minute's worth at once at most.

The disk is not waited for: the log's entry, committed before any answer, takes it there as well.
"""


def _refuse_stranger(number: int, address: str | None) -> NoReturn:
    """Nobody has this token, though anybody can make one whose checksum fits."""
    there = audit.fingerprint(address or "")
    is_flood = queue.count(f"strangers:{there}", lifetime_s=60) > STRANGERS_PER_MINUTE
    refusals.record(
        Kind.TOKEN_REFUSED,
        of="unknown",
        actor=None,
        is_answer=not is_flood,
        token=number,
        reason="unknown",
    )
    if is_flood:
        raise LimitReached("too many tokens that nobody has come from there", 60)
    raise TokenRefused("there is no such token")


def is_intact(text: str) -> bool:
    """Whether this is a token by its form and checksum, live or not."""
    if FORM.fullmatch(text) is None:
        return False
    body, checksum = text[:-CHECKSUM_CHARS], text[-CHECKSUM_CHARS:]
    return checksum == _checksum(body)


def require(actor: User, scope: Scope | None, purpose: Purpose, *, route: str) -> None:
    """Raise ScopeMissing, on the log, unless the actor's token is for this."""
    token = _token_of(actor)
    if scope is not None and scope not in token.scopes:
        refused = "scope"
    elif purpose not in token.purposes:
        refused = "purpose"
    else:
        return
    audit.record(Kind.TOKEN_REFUSED, actor=actor, purpose=purpose, reason=refused, route=route)
    raise ScopeMissing(refused)


def spend_queries(actor: User, count: int = 1) -> None:
    """Take queries off the day's budget. Raises LimitReached, on the log, where it is used up."""
    token = _token_of(actor)
    with connection.cursor() as cursor:
        cursor.execute(
            # Waited for no more than in `_LET_IN`.
            "SET LOCAL synchronous_commit = off; UPDATE retrieval_tokenuse"
            " SET day = (clock_timestamp() AT TIME ZONE 'UTC')::date,"
            " queries = %(count)s + CASE WHEN day = (clock_timestamp() AT TIME ZONE 'UTC')::date"
            " THEN queries ELSE 0 END"
            " WHERE series = %(series)s AND %(count)s <= %(most)s"
            " - CASE WHEN day = (clock_timestamp() AT TIME ZONE 'UTC')::date"
            " THEN queries ELSE 0 END",
            {"count": count, "series": token.series, "most": token.queries_per_day},
        )
        cursor.nextset()
        counted = cursor.rowcount == 1
    if not counted:
        now = timezone.now()
        tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        _refuse(actor, "queries_per_day", int((tomorrow - now).total_seconds()) + 1)


def numbers_in_series(token: ApiToken) -> list[int]:
    """A token, those it was rotated from and into: whose entries in the log are its own."""
    return list(ApiToken.objects.filter(series=token.series).values_list("pk", flat=True))


def _token_of(actor: User) -> ApiToken:
    if actor.token is None:
        raise TokenRefused(f"user {actor.pk} was not let in with a token")
    return actor.token


def _refuse(actor: User, limit: str, retry_after_s: int) -> None:
    refusals.record(
        Kind.TOKEN_LIMITED, of=f"{_token_of(actor).series} {limit}", actor=actor, limit=limit
    )
    raise LimitReached(f"the token's limit {limit} is reached", retry_after_s)


def _make(**fields: object) -> tuple[ApiToken, str]:
    """The row's number is part of the token, so it is drawn before there is a row."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence('retrieval_apitoken', 'id'))")
        (number,) = cursor.fetchone()
    body = f"cloister_{number}_" + "".join(secrets.choice(DIGITS) for _ in range(SECRET_CHARS))
    text = body + _checksum(body)
    return ApiToken.objects.create(pk=number, digest=_digest(text), **fields), text


def _count_uses_of(token: ApiToken) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO retrieval_tokenuse (series, due_at, queries)"
            " VALUES (%s, clock_timestamp(), 0)",
            [token.series],
        )


def _digest(text: str) -> str:
    return keys.keyed_hash(text, use="api tokens")


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, len(DIGITS))
        digits = DIGITS[digit] + digits
    return digits


def _record_change(
    kind: Kind, token: ApiToken, actor: User, predecessor: int | None = None
) -> None:
    audit.record_in_transaction(
        kind,
        actor=actor,
        issued=token.pk,
        account=token.account_id,
        scopes=token.scopes,
        collections=token.collections,
        purposes=token.purposes,
        expires_at=token.expires_at.isoformat(),
        predecessor=predecessor,
    )
