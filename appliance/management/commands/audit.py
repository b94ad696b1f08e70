import json
import logging
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError, close_old_connections
from django.utils.dateparse import parse_date, parse_datetime

from appliance.management.console import find_user, services
from retrieval import access, keys, ledger
from retrieval import audit as log
from retrieval.audit import atna, checkpoint, export, fhir, outside, syslog
from retrieval.audit import subject as of_subject
from retrieval.audit.entries import Entry, in_utc
from retrieval.audit.outside import Outside
from retrieval.errors import CheckpointInvalid, CloisterError
from retrieval.models import Kind, Purpose, User

logger = logging.getLogger("cloister.audit")

FORMATS = ("jsonl", "fhir", "atna")


class Command(BaseCommand):
    help = "The log: check that it is as it was written, sign its state, take it away."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verify = verbs.add_parser("verify", help="name the first entry that is wrong, if any is")
        verify.add_argument(
            "--checkpoint", type=Path, metavar="FILE", help="one, or a folder of them"
        )
        verify.add_argument("--export", type=Path, metavar="FILE", help="check this, offline")
        verify.add_argument("--public-key", type=Path, metavar="FILE")
        verify.add_argument("--json", action="store_true", help="Print one JSON document.")
        taking = verbs.add_parser("checkpoint", help="sign the log's head and keep it outside")
        taking.add_argument("--output", type=Path, metavar="FILE", help="a copy for elsewhere")
        taking.add_argument("--every", type=float, metavar="SECONDS", help="for ever, on growth")
        exporting = verbs.add_parser("export", help="the log, or a part of it, as a file")
        exporting.add_argument("--output", type=Path, metavar="FILE")
        exporting.add_argument("--format", choices=FORMATS, default="jsonl")
        exporting.add_argument("--subject", type=int, metavar="ID", help="who saw their images")
        exporting.add_argument("--since", metavar="TIME")
        exporting.add_argument("--until", metavar="TIME")
        exporting.add_argument("--send", action="store_true", help="atna: to CLOISTER_SYSLOG")
        exporting.add_argument("--as", dest="user", default=access.OPERATOR, metavar="USER")
        verbs.add_parser("key", help="print the public key that checks exports and checkpoints")

    def handle(self, *, verb: str, **options: Any) -> None:
        try:
            if verb == "verify":
                self.verify(**options)
            elif verb == "checkpoint" and options["every"]:
                self.keep_taking(options["every"])
            elif verb == "checkpoint":
                self.take(options["output"])
            elif verb == "export":
                self.export(**options)
            else:
                self.stdout.write(keys.public_key_pem(), ending="")
        except CloisterError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError("a file cannot be read or written") from error

    def verify(self, **options: Any) -> None:
        compared = None
        if options["export"]:
            found = verify_offline(options["export"], options["public_key"], options["checkpoint"])
        else:
            found, compared = self.verify_database(options["checkpoint"], options["public_key"])
        if options["json"]:
            self.stdout.write(json.dumps(as_document(found) | {"ledger": as_ledger(compared)}))
        if found.checkpoints_gone:
            raise CommandError(f"the log cannot be relied on: {found.problem}")
        if not found.holds:
            raise CommandError(f"entry {found.first_wrong} is wrong: {found.problem}")
        if compared and not compared.holds:
            raise CommandError(
                f"the ledger is not what entry {compared.entry} says: {compared.problem}"
            )
        if not options["json"]:
            against = f"checkpoint {found.checkpoint}" if found.checkpoint else "its own chain only"
            holds = "the chain holds" if found.complete else "a part: others may have been left out"
            self.stdout.write(f"{found.entries} entries, {holds}, against {against}")
            if compared:
                self.stdout.write(f"{compared.trainings} private trainings, as the log says")

    def verify_database(
        self, path: Path | None, key_file: Path | None
    ) -> tuple[log.Verification, ledger.Comparison]:
        """The log against what was kept outside, and the ledger of privacy against the log."""
        with services():
            key = read_key(key_file) if key_file else keys.public_key()
            kept = outside.load(path, key) if path else outside.configured()
            operator = find_user(access.OPERATOR)
            with access.acting_as(operator, Purpose.ADMINISTRATION):
                found = log.verify(kept)
                compared = ledger.verify()
            log.record(
                Kind.AUDIT_VERIFIED,
                actor=operator,
                purpose=Purpose.ADMINISTRATION,
                entries=found.entries,
                first_wrong=found.first_wrong,
                checkpoint=found.checkpoint,
                ledger_differs=not compared.holds,
            )
        return found, compared

    def take(self, output: Path | None) -> None:
        with services():
            operator = find_user(access.OPERATOR)
            log.record(Kind.AUDIT_CHECKPOINT, actor=operator, purpose=Purpose.ADMINISTRATION)
            note = take_checkpoint(operator)
        if note is None:
            raise CommandError("the log has not grown")
        if output is not None:
            output.write_text(note, encoding="utf-8")
        self.stdout.write(note, ending="")

    def keep_taking(self, every: float) -> None:
        access.require_bound_role()
        while True:
            try:
                operator = find_user(access.OPERATOR)
                if not outside.configured().checkpoints:
                    # From now on an empty folder is one that was emptied.
                    log.record(
                        Kind.AUDIT_CHECKPOINT, actor=operator, purpose=Purpose.ADMINISTRATION
                    )
                take_checkpoint(operator)
            except CloisterError as error:
                # Ids and numbers only: what a checkpoint refuses to be signed over, say.
                logger.error("no checkpoint: %s", error)  # noqa: TRY400
            except (DatabaseError, InterfaceError, OSError) as error:
                logger.error("no checkpoint: %s", type(error).__name__)  # noqa: TRY400
            close_old_connections()
            time.sleep(every)

    def export(self, **options: Any) -> None:
        kind, subject = options["format"], options["subject"]
        since, until = moment(options["since"]), moment(options["until"])
        if bool(options["output"]) == bool(options["send"]):
            raise CommandError("say where to: --output FILE, or --send with --format atna")
        server: str = settings.CLOISTER_SYSLOG or ""
        if options["send"] and not (kind == "atna" and server):
            raise CommandError("--send is for --format atna, and needs CLOISTER_SYSLOG")
        with services():
            actor = find_user(options["user"])
            if not actor.has_perm("retrieval.view_auditevent"):
                raise CommandError("that user may not read the log")
            number = log.record(
                Kind.AUDIT_EXPORTED,
                actor=actor,
                purpose=Purpose.ADMINISTRATION,
                format=kind,
                subject=subject,
                since=since,
                until=until,
            )
            kept = outside.configured()
            names = dict(User.objects.values_list("pk", "username"))
            with access.acting_as(actor, Purpose.ADMINISTRATION):
                wanted = choose(subject, since, until)
                documents = export.export(number, kept, wanted)
                if options["send"]:
                    entries = entries_of(documents)
                    count = syslog.send(
                        (m for entry in entries for m in atna.messages(entry, names)),
                        server=server,
                        ca_file=settings.CLOISTER_SYSLOG_CA,
                    )
                else:
                    count = write(options["output"], as_lines(documents, kind, names))
        self.stdout.write(f"{count} events of the first {number} entries exported")


def take_checkpoint(actor: User) -> str | None:
    """The next checkpoint into the folder, and to the log server where there is one."""
    folder: Path = settings.CLOISTER_CHECKPOINTS
    with outside.alone(folder):
        kept = outside.configured()
        with access.acting_as(actor, Purpose.ADMINISTRATION):
            note = outside.extend(kept)
        if note is None:
            return None
        outside.keep(folder, note, kept)
    if settings.CLOISTER_SYSLOG is not None:
        message = syslog.message(note, name="checkpoint", at=kept.checkpoints[-1].taken_at)
        syslog.send([message], server=settings.CLOISTER_SYSLOG, ca_file=settings.CLOISTER_SYSLOG_CA)
    return note


def verify_offline(
    path: Path, key_file: Path | None, checkpoint_path: Path | None
) -> log.Verification:
    """No database and no key file: the export, the public key, and what was kept outside."""
    if key_file is None:
        raise CommandError("an export is checked with --public-key FILE")
    key = read_key(key_file)
    kept = Outside() if checkpoint_path is None else outside.load(checkpoint_path, key)
    try:
        with path.open(encoding="utf-8") as lines:
            return export.verify_export(lines, key, kept)
    except UnicodeDecodeError as error:
        raise CheckpointInvalid("the export cannot be read") from error


def read_key(path: Path) -> Any:
    try:
        return checkpoint.read_public_key(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise CheckpointInvalid("the public key cannot be read") from error


def choose(subject: int | None, since: str | None, until: str | None) -> export.Wanted:
    """Which entries are asked for. A subject's: recorded with it, or on an image of it now."""
    if subject is None and since is None and until is None:
        return export.everything
    images = set() if subject is None else of_subject.images_of_subject(subject)

    def wanted(entry: Entry) -> bool:
        if (since and entry.occurred_at < since) or (until and entry.occurred_at >= until):
            return False
        if subject is None:
            return True
        return of_subject.concerns(entry, subject, images)

    return wanted


def moment(text: str | None) -> str | None:
    """A date or time as entries have theirs; without a zone it is UTC."""
    if text is None:
        return None
    try:
        found = parse_datetime(text)
        if found is None and (day := parse_date(text)):
            found = datetime(day.year, day.month, day.day, tzinfo=UTC)
    except ValueError as error:
        raise CommandError("a time is written as 2026-11-21 or 2026-11-21T08:00:00Z") from error
    if found is None:
        raise CommandError("a time is written as 2026-11-21 or 2026-11-21T08:00:00Z")
    return in_utc(found if found.tzinfo else found.replace(tzinfo=UTC))


def entries_of(documents: Iterator[dict[str, Any]]) -> Iterator[Entry]:
    next(documents)  # the header: it has refused by now, where the log does not hold
    for document in documents:
        yield Entry.from_document(document)


def as_lines(
    documents: Iterator[dict[str, Any]], kind: str, names: dict[int, str]
) -> Iterator[tuple[bytes, int]]:
    """What the file holds, piece by piece, and how many events a piece is."""
    if kind == "jsonl":
        yield (json.dumps(next(documents)) + "\n").encode(), 0
        for document in documents:
            yield (json.dumps(document) + "\n").encode(), 1
        return
    for entry in entries_of(documents):
        if kind == "fhir":
            for event in fhir.audit_events(entry, names):
                yield (json.dumps(event) + "\n").encode(), 1
        else:
            for message in atna.messages(entry, names):
                yield syslog.framed(message), 1


def write(path: Path, pieces: Iterator[tuple[bytes, int]]) -> int:
    """The file whole, or none: for its owner's eyes."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with open_private(draft) as file:
            for piece, events in pieces:
                file.write(piece)
                count += events
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return count


def open_private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def as_document(found: log.Verification) -> dict[str, Any]:
    return {
        "entries": found.entries,
        "head": found.head.hex(),
        "root": found.root.hex(),
        "checkpoint": found.checkpoint or None,
        "holds": found.holds,
        "complete": found.complete,
        "checkpoints_gone": found.checkpoints_gone,
        "first_wrong": found.first_wrong,
        "last_possible": found.last_possible,
        "problem": found.problem or None,
    }


def as_ledger(compared: ledger.Comparison | None) -> dict[str, Any] | None:
    if compared is None:
        return None
    return {
        "trainings": compared.trainings,
        "holds": compared.holds,
        "entry": compared.entry,
        "problem": compared.problem or None,
    }
