"""Errors as problem documents (RFC 9457). Foreign and missing things give the same bytes."""

import json
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpResponse

MEDIA_TYPE: Final = "application/problem+json"
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="cloister"'}


def problem(
    status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any
) -> HttpResponse:
    """`detail` is for people and says no more than the status does to those who may not know."""
    known = HTTPStatus(status)
    document = {"type": "about:blank", "title": known.phrase, "status": status, "detail": detail}
    return HttpResponse(
        json.dumps(document | more),
        status=status,
        content_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "description": "Why a file was refused."},
        "received": {"type": "integer", "description": "Of an upload: bytes so far."},
        "errors": {
            "type": "array",
            "description": "What does not fit, and why. Never what was sent.",
            "items": {
                "type": "object",
                "required": ["where", "code"],
                "properties": {"where": {"type": "string"}, "code": {"type": "string"}},
            },
        },
    },
}
