import json
from collections.abc import Iterator, Sequence
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
from retrieval import access, evaluate, judged, queue
from retrieval.errors import QueriesUnreadable
from retrieval.evaluate import Evaluation, Outcome
from retrieval.models import Purpose, User

COLD_START_TIMEOUT_S = 180.0
DIGITS = 4
LINES_TOLD = 100


class Command(BaseCommand):
    help = (
        "Measure search against judged queries: a tab-separated file with the header "
        "`query`, `relevant`; relevant ones by file name or id, several with a space between, "
        'and a name that holds a space in quotes: "a b.jpg" c.jpg.'
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
            queries = judged.read_queries(options["queries"])
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
            tables = map(as_table, document["models"])
            Console(file=cast(IO[str], self.stdout)).print(*tables, sep="\n")


def as_document(found: Sequence[tuple[User, Evaluation]]) -> dict[str, Any]:
    """The first evaluation's numbers of unknown names and of its audit entry; of each in it."""
    return {
        "models": [as_entry(actor, evaluation) for actor, evaluation in found],
        "unknown": found[0][1].unknown,
        "audit": found[0][1].audit_number,
    }


def as_entry(actor: User, found: Evaluation) -> dict[str, Any]:
    findable = evaluate.of_findable(found.outcomes)
    return {
        "model": found.encoder.name,
        "as": actor.get_username(),
        **measured(found.outcomes),
        "of_findable": measured(findable) if findable else {"queries": 0},
        "collections": {
            name: measured(outcomes) for name, outcomes in evaluate.by_collection(found).items()
        },
        "profiles": {
            name: measured(outcomes) for name, outcomes in evaluate.by_profile(found).items()
        },
        "unknown": found.unknown,
        "unknown_lines": found.unknown_lines[:LINES_TOLD],
        "audit": found.audit_number,
    }


def measured(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How many queries, the mean of each measure, and its interval."""
    means, intervals = evaluate.summary(outcomes), evaluate.intervals(outcomes)
    return {
        "queries": len(outcomes),
        **{name: round(mean, DIGITS) for name, mean in means.items()},
        "interval_95": {
            name: [round(low, DIGITS), round(high, DIGITS)]
            for name, (low, high) in intervals.items()
        },
    }


def as_table(model: dict[str, Any]) -> Table:
    caption = (
        f"{model['unknown']} relevant names or ids are no searchable image; "
        f"recorded as audit entry {model['audit']}"
    )
    title = f"{model['model']} as {model['as']}"
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False}
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", **look
    )
    for heading in ("of", "measure", "mean", "95 % interval"):
        table.add_column(heading, overflow="fold")
    for what, entry in parts_of(model):
        for name, (low, high) in entry["interval_95"].items():
            table.add_row(what, name, f"{entry[name]:.3f}", f"{low:.3f}–{high:.3f}")
    return table


def parts_of(model: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All of it, and where there are several of a kind, each by itself."""
    yield "all", model
    if 0 < model["findable"] < 1:
        yield "what is findable", model["of_findable"]
    for kind in ("collections", "profiles"):
        if len(model[kind]) > 1:
            yield from model[kind].items()
