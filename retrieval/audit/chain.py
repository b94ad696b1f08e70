import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC

from django.db import connection

from retrieval.models import AuditEvent

GENESIS = hashlib.sha256(b"cloister audit log").digest()
PAGE_SIZE = 5000


@dataclass(frozen=True)
class Verification:
    """`first_wrong` is the number of the first entry that is not as it was written, or None."""

    entries: int
    head: bytes
    first_wrong: int | None
    problem: str

    @property
    def holds(self) -> bool:
        return self.first_wrong is None


def entry_hash(event: AuditEvent) -> bytes:
    """SHA-256 over the previous entry's hash and this entry's fields, one to a line.

    The same as `cloister_audit_append` (migration 0002) computes when it writes.
    """
    lines = [
        str(event.number),
        event.occurred_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        event.kind,
        "" if event.actor_id is None else str(event.actor_id),
        event.purpose,
        event.details,
    ]
    return hashlib.sha256(bytes(event.previous_hash) + "\n".join(lines).encode()).digest()


def verify() -> Verification:
    """Recompute the chain from its first entry, inside `acting_as` somebody who may read the log.

    Finds an edited, deleted, inserted or moved entry, and a tail cut off without its head.
    """
    # The head is read first: entries that are appended meanwhile come after it.
    with connection.cursor() as cursor:
        cursor.execute("SELECT number, entry_hash FROM retrieval_audithead")
        head_number, head_hash = cursor.fetchone() or (0, GENESIS)
    entries, previous = 0, GENESIS
    for event in _events():
        if problem := _problem(event, entries + 1, previous):
            return Verification(entries, previous, entries + 1, problem)
        entries, previous = entries + 1, bytes(event.entry_hash)
        if entries == head_number and previous != bytes(head_hash):
            return Verification(entries, previous, entries, "the log's head does not match it")
    if entries < head_number:
        return Verification(entries, previous, entries + 1, "the log was cut off here")
    return Verification(entries, previous, None, "")


def _problem(event: AuditEvent, expected_number: int, previous: bytes) -> str:
    if event.number != expected_number:
        return "this entry is missing"
    if bytes(event.previous_hash) != previous:
        return "it does not follow its predecessor"
    if bytes(event.entry_hash) != entry_hash(event):
        return "it is not as it was written"
    return ""


def _events() -> Iterator[AuditEvent]:
    last = 0
    while page := list(AuditEvent.objects.filter(number__gt=last).order_by("number")[:PAGE_SIZE]):
        yield from page
        last = page[-1].number
