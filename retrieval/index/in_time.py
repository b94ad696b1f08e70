"""When a search must have been answered: all of its statements together."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from django.db import OperationalError
from psycopg import sql
from psycopg.errors import QueryCanceled

from retrieval.errors import SearchTooSlow

DEADLINE_S = 10
_ends_at: ContextVar[float | None] = ContextVar("ends_at", default=None)
_TOO_SLOW: Final = "the nearest images were not found in time"


@contextmanager
def deadline() -> Iterator[None]:
    """Let what is asked inside take DEADLINE_S, or what is left where this is part of a longer one.

    Raises SearchTooSlow.
    """
    if _ends_at.get() is not None:
        yield
        return
    before = _ends_at.set(time.monotonic() + DEADLINE_S)
    try:
        yield
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise SearchTooSlow(_TOO_SLOW) from error
        raise
    finally:
        _ends_at.reset(before)


def time_left() -> sql.Composed:
    """What ends this transaction's next statements in time: an expression to SELECT before them.

    Inside `deadline`. Raises SearchTooSlow where none is left: no statement has 0 ms.
    """
    ends_at = _ends_at.get()
    if ends_at is None:
        raise LookupError("nothing is asked of the index without a deadline")
    left_ms = int(1000 * (ends_at - time.monotonic()))
    if left_ms < 1:
        raise SearchTooSlow(_TOO_SLOW)
    return sql.SQL("set_config('statement_timeout', {}, true)").format(sql.Literal(f"{left_ms}ms"))
