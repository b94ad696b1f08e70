import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connection, transaction

from retrieval import keys
from retrieval.errors import AuditUnavailable
from retrieval.models import Kind, User

WRITE_TIMEOUT_S = 2


type_of_detail = (
    str
    | int
    | float
    | bool
    | None
    | UUID
    | Sequence[UUID]
    | Sequence[str]
    | Sequence[int]
    | Sequence[Mapping[str, float]]
)


def record(kind: Kind, *, actor: User | None, purpose: str = "", **details: type_of_detail) -> int:
    """Commit one entry and return its number. Whoever gives an answer calls this before.

    `details` are ids, counts, codes and keyed hashes: no words, names or pixels. Raises
    AuditUnavailable where the entry cannot be committed within WRITE_TIMEOUT_S: then there is no
    answer to give. Inside another transaction it raises RuntimeError, because a roll-back there
    would forget the look.
    """
    try:
        if connection.in_atomic_block or not connection.get_autocommit():
            raise RuntimeError("a look is recorded in a transaction of its own")
        # Outside a transaction what is sent together is one, committed before it is answered.
        return _append(kind, actor, purpose, details, limit="statement_timeout")
    except (DatabaseError, InterfaceError) as error:
        connection.close_if_unusable_or_obsolete()
        raise AuditUnavailable(f"event {kind} could not be recorded") from error


_recorded: ContextVar[int] = ContextVar("recorded", default=0)


def recorded_so_far() -> int:
    """How many entries this thread of execution has written: grows with each."""
    return _recorded.get()


def require_writable() -> None:
    """Raise AuditUnavailable unless an entry could be written now. Nothing is.

    For what is handed out on the word of an entry that was written before.
    """
    try:
        with transaction.atomic(durable=True):
            _append(Kind.AUDIT_READ, None, "", {}, limit="statement_timeout")
            # Rolled back, it costs no write to the disk.
            transaction.set_rollback(True)
    except (DatabaseError, InterfaceError) as error:
        raise AuditUnavailable("the log cannot be written") from error


def record_in_transaction(
    kind: Kind, *, actor: User | None, purpose: str = "", **details: type_of_detail
) -> int:
    """One entry that stands or falls with the change it tells of. Not for looks: use `record`."""
    if not connection.in_atomic_block:
        raise RuntimeError("a change and its audit entry belong in one transaction")
    return _append(kind, actor, purpose, details, limit="lock_timeout")


def _append(
    kind: Kind,
    actor: User | None,
    purpose: str,
    details: dict[str, type_of_detail],
    *,
    limit: str,
) -> int:
    """limit: PostgreSQL's setting that bounds the waiting."""
    if actor is not None and actor.token is not None:
        details = details | {"token": actor.token.pk}
    canonical = json.dumps(details, sort_keys=True, separators=(",", ":"), default=str)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SET LOCAL {limit} = '{WRITE_TIMEOUT_S}s';"
            " SELECT cloister_audit_append(%s, %s, %s, %s)",
            [kind, None if actor is None else actor.pk, purpose, canonical],
        )
        cursor.nextset()
        (number,) = cursor.fetchone()
    _recorded.set(_recorded.get() + 1)
    return int(number)


def fingerprint(text: str) -> str:
    """A keyed hash by which the log tells equal words without telling them."""
    return keys.keyed_hash(text, use="audit fingerprints")
