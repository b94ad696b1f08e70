from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Q
from django.utils.dateparse import parse_datetime
from ninja import Query, Router, Schema

from appliance.api import paging
from appliance.api.auth import ApiRequest, Token
from retrieval import access, audit, frames, receive
from retrieval.models import ImportBatch, Kind, Scope, State
from retrieval.models.grant import Capability
from retrieval.models.image import SETTLED

router = Router(tags=["jobs"], auth=Token(Scope.STATUS))


class JobOut(Schema):
    """An import of this program. `refused`: files that were turned away at the door."""

    job: UUID
    collection: int
    started_at: datetime
    refused: int


class ProgressOut(JobOut):
    """A video is one file: what became of it is what became of its frames."""

    received: int
    pending: int
    indexed: int
    review: int
    rejected: int
    quarantined: int
    done: bool


class JobsOut(paging.Page):
    items: list[JobOut]


class JobFileOut(Schema):
    """`reason`: why it waits for a person or was rejected; empty where neither is so."""

    image: UUID
    state: str
    reason: str


class JobFilesOut(paging.Page):
    items: list[JobFileOut]
    audit: int


@router.get("/jobs", response=JobsOut, operation_id="jobs")
def jobs(request: ApiRequest, page: Query[paging.PageIn]) -> JobsOut:
    """The imports that this program started, newest first."""
    permitted = access.collections_where(request.auth, request.purpose, Capability.VIEW)
    rows = ImportBatch.objects.filter(
        started_by=request.auth, collection__in=[c.pk for c in permitted]
    )
    if page.cursor:
        at, last = _place(page.cursor)
        rows = rows.filter(Q(started_at__lt=at) | Q(started_at=at, pk__lt=last))
    with access.acting_as(request.auth, request.purpose):
        found = list(rows.order_by("-started_at", "-pk")[: page.limit + 1])
    items, more = found[: page.limit], len(found) > page.limit
    end = paging.encode(items[-1].started_at.isoformat(), str(items[-1].pk)) if more else None
    return JobsOut(items=[JobOut(**_facts(batch)) for batch in items], next=end)


@router.get("/jobs/{uuid:job}", response=ProgressOut, operation_id="job")
def job_progress(request: ApiRequest, job: UUID) -> ProgressOut:
    """How far an import is. What waits for a person is settled, too."""
    batch = _own(request, job)
    with access.acting_as(request.auth, request.purpose):
        files = frames.files(batch.images.all()).order_by().values("outcome")
        counts = {row["outcome"]: row["n"] for row in files.annotate(n=Count("pk"))}
    received = sum(counts.values())
    settled = sum(n for state, n in counts.items() if state in SETTLED)
    return ProgressOut(
        **_facts(batch),
        received=received + batch.refused,
        pending=received - settled,
        indexed=counts.get(State.INDEXED, 0),
        review=counts.get(State.REVIEW, 0),
        rejected=counts.get(State.REJECTED, 0),
        quarantined=counts.get(State.QUARANTINED, 0),
        done=settled == received,
    )


@router.get("/jobs/{uuid:job}/files", response=JobFilesOut, operation_id="job_files")
def job_files(request: ApiRequest, job: UUID, page: Query[paging.PageIn]) -> JobFilesOut:
    """What became of each file that was taken in, in the order they came."""
    batch = _own(request, job)
    rows = frames.files(batch.images.all())
    if page.cursor:
        at, last = _place(page.cursor)
        rows = rows.filter(Q(received_at__gt=at) | Q(received_at=at, pk__gt=last))
    with access.acting_as(request.auth, request.purpose):
        found = list(rows.order_by("received_at", "pk")[: page.limit + 1])
    items, more = found[: page.limit], len(found) > page.limit
    number = audit.record(
        Kind.IMAGES_LISTED,
        actor=request.auth,
        purpose=request.purpose,
        batch=batch.pk,
        images=[row.pk for row in items],
        subjects=sorted({row.subject_id for row in items if row.subject_id is not None}),
    )
    end = paging.encode(items[-1].received_at.isoformat(), str(items[-1].pk)) if more else None
    told = [JobFileOut(image=row.pk, state=row.outcome, reason=row.outcome_reason) for row in items]
    return JobFilesOut(items=told, next=end, audit=number)


def _own(request: ApiRequest, job: UUID) -> ImportBatch:
    return receive.own_batch(
        job, actor=request.auth, purpose=request.purpose, capability=Capability.VIEW
    )


def _facts(batch: ImportBatch) -> dict[str, Any]:
    return {
        "job": batch.pk,
        "collection": batch.collection_id,
        "started_at": batch.started_at,
        "refused": batch.refused,
    }


def _place(cursor: str) -> tuple[datetime, UUID]:
    moment, last = paging.decode(cursor, str, str)
    try:
        at = parse_datetime(moment)
        if at is None or at.tzinfo is None:
            raise paging.CursorUnreadable
        # The database takes no zone more than sixteen hours away.
        return at.astimezone(UTC), UUID(last)
    except (ValueError, OverflowError) as error:
        raise paging.CursorUnreadable from error
