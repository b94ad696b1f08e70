import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from appliance.embedded import supervisor
from appliance.management.console import (
    find_collection,
    find_purpose,
    find_user,
    progress_console,
    services,
)
from retrieval import access, evaluate, queue
from retrieval.errors import QueriesUnreadable
from retrieval.evaluate import Evaluation, Outcome
from retrieval.models import Purpose, User

COLD_START_TIMEOUT_S = 180.0
DIGITS = 4


class Command(BaseCommand):
    help = (
        "Measure search against judged queries: a tab-separated file with the header "
        "`query`, `relevant`; relevant ones by file name or id, several with a space between."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--queries", type=Path, required=True, metavar="FILE")
        parser.add_argument("--collection", action="append", metavar="NAME")
        parser.add_argument(
            "--as",
            dest="users",
            action="append",
            metavar="USER",
            help="Several are measured one by one, each over what they may search.",
        )
        parser.add_argument(
            "--model",
            dest="models",
            action="append",
            default=[],
            metavar="NAME",
            help="An encoder that was filled but need not be live; several one by one.",
        )
        parser.add_argument("--purpose", default=Purpose.OPERATIONS.value, metavar="CODE")
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")

    def handle(self, **options: Any) -> None:
        try:
            queries = evaluate.read_queries(options["queries"])
        except QueriesUnreadable as error:
            raise CommandError(str(error)) from error
        with services(workers=supervisor.QUERY_WORKERS):
            actors = [find_user(name) for name in options["users"] or [access.OPERATOR]]
            purpose = find_purpose(options["purpose"])
            names = options["collection"]
            collections = names and [find_collection(name).pk for name in names]
            queue.wait_for_query_worker(COLD_START_TIMEOUT_S)
            with progress_console.status(f"asking {len(queries)} queries"):
                found = [
                    (
                        actor,
                        evaluate.evaluate(
                            queries,
                            actor=actor,
                            purpose=purpose,
                            collections=collections,
                            model=model,
                        ),
                    )
                    for actor in actors
                    for model in options["models"] or [""]
                ]
            document = as_document(found)
        if options["json"]:
            self.stdout.write(json.dumps(document))
        else:
            Console(file=cast(IO[str], self.stdout)).print(as_table(document))


def as_document(found: Sequence[tuple[User, Evaluation]]) -> dict[str, Any]:
    """The first evaluation's numbers of unknown names and of its audit entry; of each in it."""
    return {
        "models": [as_entry(actor, evaluation) for actor, evaluation in found],
        "unknown": found[0][1].unknown,
        "audit": found[0][1].audit_number,
    }


def as_entry(actor: User, found: Evaluation) -> dict[str, Any]:
    intervals = evaluate.intervals(found.outcomes)
    return {
        "model": found.encoder.name,
        "as": actor.get_username(),
        **rounded(found.outcomes),
        "interval_95": {
            name: [round(low, DIGITS), round(high, DIGITS)]
            for name, (low, high) in intervals.items()
        },
        "collections": {
            name: rounded(outcomes) for name, outcomes in evaluate.by_collection(found).items()
        },
        "profiles": {
            name: rounded(outcomes) for name, outcomes in evaluate.by_profile(found).items()
        },
        "unknown": found.unknown,
        "audit": found.audit_number,
    }


def rounded(outcomes: Sequence[Outcome]) -> dict[str, float]:
    means = evaluate.summary(outcomes)
    return {"queries": len(outcomes)} | {name: round(v, DIGITS) for name, v in means.items()}


def as_table(document: dict[str, Any]) -> Table:
    caption = (
        f"{document['unknown']} relevant names or ids are no searchable image; "
        f"recorded from audit entry {document['audit']} on"
    )
    table = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "as", "measure", "mean", "95 % interval"):
        table.add_column(heading)
    for model in document["models"]:
        for name, (low, high) in model["interval_95"].items():
            interval = f"{low:.3f}–{high:.3f}"
            table.add_row(model["model"], model["as"], name, f"{model[name]:.3f}", interval)
    return table
