"""A program's own entries in the log, and the proof that they are in it."""

import json
from typing import Any

from django.http import HttpResponse
from ninja import Path, Query, Router, Schema
from pydantic import Field

from appliance.api import paging
from appliance.api.auth import ApiRequest, Token
from appliance.api.problems import problem
from retrieval import access, audit, keys
from retrieval.audit import proof
from retrieval.audit.entries import Entry, in_utc
from retrieval.errors import AccessDenied
from retrieval.models import AuditEvent, Kind, Scope

router = Router(tags=["audit"], auth=Token(Scope.STATUS))

MAX_NUMBER = 2**63 - 1


class EventOut(Schema):
    """An entry as the log has it: ids, counts, codes and keyed hashes."""

    number: int
    occurred_at: str
    kind: str
    purpose: str
    details: dict[str, Any]


class EventsOut(paging.Page):
    items: list[EventOut]


class ProofOut(Schema):
    """`entry`: the entry's canonical bytes, as text. SHA-256 over 0x00 and these is its leaf;
    `path` leads from leaf `index` to the head of the `size` entries that `checkpoint` signs
    (RFC 6962, 2.1.1). `public_key`: compare it with the one taken away at installation."""

    number: int
    entry: str
    index: int
    size: int
    path: list[str]
    checkpoint: str
    public_key: str


class NumberIn(Schema):
    number: int = Field(ge=1, le=MAX_NUMBER)


@router.get("/audit/events", response=EventsOut, operation_id="own_events")
def own_events(request: ApiRequest, page: Query[paging.PageIn]) -> EventsOut:
    """What this token and those before it in its rotation did, newest first."""
    before = paging.decode(page.cursor, int)[0] if page.cursor else MAX_NUMBER
    if not 0 < before <= MAX_NUMBER:
        raise paging.CursorUnreadable
    with access.acting_as(request.auth, request.purpose):
        rows = AuditEvent.objects.filter(actor=request.auth, number__lt=before)
        found = list(rows.order_by("-number")[: page.limit + 1])
    audit.record(Kind.AUDIT_READ, actor=request.auth, purpose=request.purpose, entries=len(found))
    items, more = found[: page.limit], len(found) > page.limit
    return EventsOut(
        items=[_told(row) for row in items],
        next=paging.encode(items[-1].number) if more else None,
    )


@router.get("/audit/events/{number}/proof", response=ProofOut, operation_id="prove_event")
def prove_event(request: ApiRequest, place: Path[NumberIn]) -> ProofOut | HttpResponse:
    """That an entry of one's own is in the log. 409 before a checkpoint covers it: ask again."""
    with access.acting_as(request.auth, request.purpose):
        row = AuditEvent.objects.filter(actor=request.auth, number=place.number).first()
    audit.record(Kind.AUDIT_READ, actor=request.auth, purpose=request.purpose, entry=place.number)
    if row is None:
        raise AccessDenied("there is no such entry of one's own")
    entry = _entry(row)
    found = proof.of_entry(entry)
    if found is None:
        wait = {"Retry-After": "300"}
        return problem(409, "No checkpoint covers that entry yet.", headers=wait)
    return ProofOut(
        number=entry.number,
        entry=entry.canonical().decode(),
        index=found.index,
        size=found.size,
        path=found.path,
        checkpoint=found.checkpoint,
        public_key=keys.public_key_pem(),
    )


def _told(row: AuditEvent) -> EventOut:
    return EventOut(
        number=row.number,
        occurred_at=in_utc(row.occurred_at),
        kind=row.kind,
        purpose=row.purpose,
        details=json.loads(row.details),
    )


def _entry(row: AuditEvent) -> Entry:
    return Entry(
        row.number,
        in_utc(row.occurred_at),
        row.kind,
        row.actor_id,
        row.purpose,
        row.details,
        bytes(row.previous_hash),
        bytes(row.entry_hash),
    )
