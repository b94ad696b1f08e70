"""An entry as its hashes cover it, read from the database or from an export."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from retrieval.audit import merkle
from retrieval.errors import CheckpointInvalid
from retrieval.models import AuditEvent

PAGE_SIZE = 5000


class Entry(NamedTuple):
    """`occurred_at` in UTC with six digits and a Z; `details` is canonical JSON, as written."""

    number: int
    occurred_at: str
    kind: str
    actor: int | None
    purpose: str
    details: str
    previous_hash: bytes
    entry_hash: bytes

    def canonical(self) -> bytes:
        """The fields, one to a line: what the chain and the tree are made of.

        The same bytes as `cloister_audit_append` (migration 0002) hashes when it writes. No
        written field holds a line break, so no two entries share them.
        """
        actor = "" if self.actor is None else str(self.actor)
        lines = (
            str(self.number),
            self.occurred_at,
            self.kind,
            actor,
            self.purpose,
            self.details,
        )
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def leaf(self) -> bytes:
        return merkle.leaf_hash(self.canonical())

    def chained(self) -> bytes:
        """SHA-256 over the previous entry's hash and this entry."""
        return hashlib.sha256(self.previous_hash + self.canonical()).digest()

    def told(self) -> dict[str, Any]:
        """The details as a document. Empty where somebody made them something else."""
        try:
            document = json.loads(self.details)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def as_document(self) -> dict[str, Any]:
        return self._asdict() | {
            "previous_hash": self.previous_hash.hex(),
            "entry_hash": self.entry_hash.hex(),
        }

    @classmethod
    def from_document(cls, document: Any) -> "Entry":
        """Raises CheckpointInvalid where it is no entry of an export."""
        if not _is_entry(document):
            raise CheckpointInvalid("a line of the export is no entry")
        try:
            previous, own = (bytes.fromhex(document[f]) for f in ("previous_hash", "entry_hash"))
        except ValueError as error:
            raise CheckpointInvalid("a line of the export is no entry") from error
        told = {name: document[name] for name in cls._fields}
        return cls(**told | {"previous_hash": previous, "entry_hash": own})


def _is_entry(document: Any) -> bool:
    if not isinstance(document, dict) or not document.keys() >= set(Entry._fields):
        return False
    numbers = [document["number"]] + [a for a in [document["actor"]] if a is not None]
    texts = [document[name] for name in Entry._fields if name not in ("number", "actor")]
    return all(type(n) is int for n in numbers) and all(isinstance(t, str) for t in texts)


def stored(after: int = 0, until: int | None = None) -> Iterator[Entry]:
    """The entries of the database by number, inside `acting_as` somebody who may read the log."""
    fields = ("number", "occurred_at", "kind", "actor_id", "purpose", "details")
    last = after
    while True:
        rows = AuditEvent.objects.filter(number__gt=last).order_by("number")
        if until is not None:
            rows = rows.filter(number__lte=until)
        page = rows.values_list(*fields, "previous_hash", "entry_hash")[:PAGE_SIZE]
        count = 0
        for number, at, kind, actor, purpose, details, previous, own in page:
            yield Entry(
                number, in_utc(at), kind, actor, purpose, details, bytes(previous), bytes(own)
            )
            last, count = number, count + 1
        if count < PAGE_SIZE:
            return


def in_utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
