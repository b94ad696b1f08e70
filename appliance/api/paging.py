"""Pages by cursor: where the last one ended, in the list's own order. No page is counted."""

import base64
import binascii
import json
from typing import Any, Final

from ninja import Field, Schema

PAGE: Final = 50
MAX_PAGE: Final = 200
MAX_CURSOR_CHARS: Final = 300


class CursorUnreadable(ValueError):
    """A cursor that no answer gave out."""


class PageIn(Schema):
    """Where to go on, as the answer before said, and how far."""

    cursor: str = Field("", max_length=MAX_CURSOR_CHARS)
    limit: int = Field(PAGE, ge=1, le=MAX_PAGE)


class Page(Schema):
    """`next` continues the list; null where this page is its end."""

    next: str | None


def encode(*place: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def decode(cursor: str, *types: type) -> list[Any]:
    """The place of a cursor. Raises CursorUnreadable."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise CursorUnreadable from error
    if not isinstance(place, list) or [type(part) for part in place] != list(types):
        raise CursorUnreadable
    return place
