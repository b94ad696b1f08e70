import json
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from appliance.embedded import supervisor
from appliance.management.console import (
    find_collection,
    find_purpose,
    find_user,
    progress_console,
    services,
)
from retrieval import access, audit, receive
from retrieval.errors import Reason, Rejected
from retrieval.models import Collection, Image, ImportBatch, Kind, Purpose, State, User
from retrieval.models.image import SETTLED

POLL_S = 0.3


class Command(BaseCommand):
    help = "Import a folder, a file or a zip archive into a collection."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path)
        parser.add_argument("--collection", required=True, metavar="NAME")
        parser.add_argument(
            "--wait", action="store_true", help="Return when every image is settled."
        )
        parser.add_argument("--as", dest="user", default=access.OPERATOR, metavar="USER")
        parser.add_argument("--purpose", default=Purpose.ADMINISTRATION.value, metavar="CODE")
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")

    def handle(self, **options: Any) -> None:
        path: Path = options["path"]
        try:
            path.stat()
        except (OSError, ValueError) as error:
            raise CommandError("no such file or folder") from error
        workers = supervisor.INGEST_WORKERS if options["wait"] else ()
        with services(workers=workers):
            actor, purpose = find_user(options["user"]), find_purpose(options["purpose"])
            collection = find_collection(options["collection"])
            report = run(path, collection, actor=actor, purpose=purpose, wait=options["wait"])
        if options["json"]:
            self.stdout.write(json.dumps(report))
            return
        self.stdout.write(
            f"{report['received']} received, {report['indexed']} indexed, "
            f"{report['review']} in review, {len(report['rejected'])} rejected, "
            f"{report['pending']} under way, {report['seconds']} s"
        )
        for reason, count in Counter(r["reason"] for r in report["rejected"]).most_common():
            self.stdout.write(f"  {count} × {reason}")


def run(
    path: Path, collection: Collection, *, actor: User, purpose: Purpose, wait: bool
) -> dict[str, Any]:
    """Import all that is under `path`; returns the report of `import --json`.

    Every file is in exactly one of indexed, review, rejected and pending.
    """
    started = time.monotonic()
    batch = receive.start_batch(collection, actor=actor, purpose=purpose)
    refused: list[tuple[str, Reason]] = []
    names: dict[UUID, list[str]] = {}
    duplicates = 0
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
                try:
                    image, is_new = receive.receive(item, batch, actor=actor, purpose=purpose)
                except Rejected as rejected:
                    refused.append((item.name, rejected.reason))
                else:
                    names.setdefault(image.pk, []).append(item.name)
                    duplicates += not is_new
            progress.advance(receiving)
        close_batch(batch, len(refused), actor=actor, purpose=purpose)
        if wait:
            working = progress.add_task("de-identifying and encoding", total=len(names))
            while True:
                images = states(names, actor=actor, purpose=purpose)
                progress.update(
                    working, completed=sum(state in SETTLED for state, _ in images.values())
                )
                if all(state in SETTLED for state, _ in images.values()):
                    break
                time.sleep(POLL_S)
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
        "batch": str(batch.pk),
        "seconds": round(time.monotonic() - started, 2),
    }


def close_batch(batch: ImportBatch, refused: int, *, actor: User, purpose: Purpose) -> None:
    with access.acting_as(actor, purpose):
        batch.refused = refused
        batch.save(update_fields=["refused"])
        audit.record_in_transaction(
            Kind.IMPORT_FINISHED,
            actor=actor,
            purpose=purpose,
            batch=batch.pk,
            received=batch.images.count(),
            refused=refused,
        )


def states(
    image_ids: dict[UUID, list[str]], *, actor: User, purpose: Purpose
) -> dict[UUID, tuple[str, str]]:
    """The state and reason of each image, as the actor may see them."""
    with access.acting_as(actor, purpose):
        rows = Image.objects.filter(pk__in=image_ids).values_list("pk", "state", "reason")
        return {pk: (state, reason) for pk, state, reason in rows}
