"""An import from the command line: receive every file, show the progress, account for each."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from appliance.embedded.supervisor import Appliance
from appliance.management.console import progress_console
from retrieval import access, audit, frames, receive, reports
from retrieval.errors import Reason, Rejected
from retrieval.models import (
    Collection,
    Image,
    ImportBatch,
    Kind,
    Purpose,
    Report,
    Stage,
    State,
    User,
    Work,
)
from retrieval.models.image import SETTLED

POLL_S = 0.3
ASKED_TOGETHER = 20
"""Images are settled about in their order: until the first ones are, nothing else has to be asked.
Each question takes its time from the workers."""


def import_files(
    path: Path,
    collection: Collection,
    *,
    actor: User,
    purpose: Purpose,
    wait: bool,
    own: Appliance | None,
    tags: Sequence[str] = (),
) -> dict[str, Any]:
    """Import all that is under `path`; returns the report of `import --json`.

    `own`: the appliance that this command started for itself and keeps alive while it waits.

    Every file is in exactly one of indexed, review, rejected and pending; a video is one file,
    and what became of it is what became of its frames (retrieval.frames.OUTCOME). A text that is
    a picture's report is no file of these, unless it is rejected: those taken are `reports`.
    """
    started = time.monotonic()
    batch = receive.start_batch(collection, actor=actor, purpose=purpose)
    refused: list[tuple[str, Reason]] = []
    names: dict[UUID, list[str]] = {}
    duplicates = with_report = 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=progress_console,
    ) as progress:
        receiving = progress.add_task("receiving", total=None)
        for item in receive.walk(path):
            if isinstance(item, receive.Refusal):
                refused.append((item.name, item.reason))
            else:
                image = None
                try:
                    image, is_new = receive.receive(
                        item, batch, actor=actor, purpose=purpose, tags=tags
                    )
                except Rejected as rejected:
                    refused.append((item.name, rejected.reason))
                else:
                    names.setdefault(image.pk, []).append(item.name)
                    duplicates += not is_new
                if item.report is not None:
                    reason = _attach(image, item.report, batch, actor=actor, purpose=purpose)
                    refused += [] if reason is None else [(item.report.name, reason)]
                    with_report += reason is None
            progress.advance(receiving)
        progress.update(receiving, total=progress.tasks[receiving].completed)
        close_batch(batch, len(refused), len(tags), actor=actor, purpose=purpose)
        if wait:
            working = progress.add_task("de-identifying and encoding", total=len(names))
            for left in waiting_for(list(names), actor=actor, purpose=purpose):
                progress.update(working, completed=len(names) - left)
                if own is not None:
                    own.revive()
    images = states(names, actor=actor, purpose=purpose)
    files = Counter[str]()
    rejected_files = [{"file": name, "reason": reason.value} for name, reason in refused]
    for image_id, (state, why) in images.items():
        if state in (State.REJECTED, State.QUARANTINED):
            rejected_files += [{"file": name, "reason": why} for name in names[image_id]]
        else:
            files[state] += len(names[image_id])
    return {
        "received": sum(map(len, names.values())) + len(refused),
        "indexed": files[State.INDEXED],
        "review": files[State.REVIEW],
        "rejected": rejected_files,
        "pending": files[State.RECEIVED] + files[State.DEIDENTIFIED],
        "duplicates": duplicates,
        "reports": with_report,
        "frames": count_frames(names, actor=actor, purpose=purpose),
        "batch": str(batch.pk),
        "seconds": round(time.monotonic() - started, 2),
    }


def _attach(
    image: Image | None,
    text: receive.Candidate,
    batch: ImportBatch,
    *,
    actor: User,
    purpose: Purpose,
) -> Reason | None:
    """Why a text is not the picture's report; None where it is."""
    try:
        reports.attach(image, text, batch, actor=actor, purpose=purpose)
    except Rejected as rejected:
        return rejected.reason
    return None


def close_batch(
    batch: ImportBatch, refused: int, tags: int, *, actor: User, purpose: Purpose
) -> None:
    """Say on the log how much came in, and with how many tags, never which."""
    with access.acting_as(actor, purpose):
        batch.refused = refused
        batch.save(update_fields=["refused"])
        audit.record_in_transaction(
            Kind.IMPORT_FINISHED,
            actor=actor,
            purpose=purpose,
            batch=batch.pk,
            received=frames.files(batch.images.all()).count(),
            refused=refused,
            reports=Report.objects.filter(batch=batch).count(),
            tags=tags,
        )


def waiting_for(under_way: list[UUID], *, actor: User, purpose: Purpose) -> Iterator[int]:
    """Yield again and again how many images are not yet settled, until none is left."""
    while under_way:
        asked = under_way[:ASKED_TOGETHER]
        under_way = still_under_way(under_way, actor=actor, purpose=purpose)
        yield len(under_way)
        if under_way and under_way[0] in asked:  # what is waited for stays in front
            time.sleep(POLL_S)


def still_under_way(image_ids: list[UUID], *, actor: User, purpose: Purpose) -> list[UUID]:
    """Those without the ones among the first that are settled, their reports read, or no longer to
    be seen."""
    asked = image_ids[:ASKED_TOGETHER]
    found = states(asked, actor=actor, purpose=purpose)
    with access.acting_as(actor, purpose):
        due = Work.objects.filter(stage=Stage.REPORT, image__in=asked)
        unread = set(due.values_list("image_id", flat=True))
    waited_for = [i for i in asked if i in found and (found[i][0] not in SETTLED or i in unread)]
    return waited_for + image_ids[ASKED_TOGETHER:]


def states(
    image_ids: Iterable[UUID], *, actor: User, purpose: Purpose
) -> dict[UUID, tuple[str, str]]:
    """The outcome of each file and its reason, as the actor may see them."""
    with access.acting_as(actor, purpose):
        rows = frames.files(Image.objects.filter(pk__in=image_ids))
        return {row.pk: (row.outcome, row.outcome_reason) for row in rows}


def count_frames(image_ids: dict[UUID, list[str]], *, actor: User, purpose: Purpose) -> int:
    """How many images the videos among the files became."""
    with access.acting_as(actor, purpose):
        return Image.objects.filter(video__in=image_ids).count()
