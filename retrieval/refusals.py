"""Refusals that a stranger can cause without end. The log keeps every entry for ever, so these are
counted, and on it where the count of the hour is 1, 2, 4, 8, …: a million are twenty entries.
"""

from typing import Final

from retrieval import audit, queue
from retrieval.audit import type_of_detail
from retrieval.models import Kind, User

INTERVAL_S: Final = 3600


def record(kind: Kind, *, of: str, actor: User | None, **details: type_of_detail) -> None:
    """One more refusal of what `of` names. `count` in its entry is how many there were so far.

    Raises AuditUnavailable where the log could not take it, entry or not; ServicesUnavailable.
    """
    count = queue.count(f"refusals:{kind}:{of}", lifetime_s=INTERVAL_S)
    if count & (count - 1):
        audit.require_writable()
    else:
        audit.record(kind, actor=actor, count=count, **details)  # type: ignore[arg-type]  # no purpose
