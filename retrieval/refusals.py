"""Refusals that a stranger can cause without end. The log keeps every entry for ever, so these are
counted, and on it where the count of the hour is 1, 2, 4, 8, …: a million are twenty entries.
"""

from typing import Final

from retrieval import audit, queue
from retrieval.audit import type_of_detail
from retrieval.models import Kind, User

INTERVAL_S: Final = 3600


def record(
    kind: Kind, *, of: str, actor: User | None, is_answer: bool = True, **details: type_of_detail
) -> None:
    """One more refusal of what `of` names. `count` in its entry is how many there were so far.

    is_answer: False for what is turned away in a flood, of which the log is asked only where it
    gets an entry. Raises AuditUnavailable where the log could not take it, entry or not;
    ServicesUnavailable.
    """
    count = queue.count(f"refusals:{kind}:{of}", lifetime_s=INTERVAL_S)
    if not count & (count - 1):
        audit.record(kind, actor=actor, count=count, **details)  # type: ignore[arg-type]  # no purpose
    elif is_answer:
        audit.require_writable()
