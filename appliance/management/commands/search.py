import json
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from appliance.embedded import supervisor
from appliance.management.console import find_collection, find_purpose, find_user, services
from retrieval import queue
from retrieval.search import Answer, Query, search

MAX_EXAMPLE_BYTES = 20 * 1024 * 1024
COLD_START_TIMEOUT_S = 180.0
UUID_CHARS = 36


class Command(BaseCommand):
    help = "Search by words, by an example image, or by both, as a user and for a purpose."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("words", nargs="*")
        parser.add_argument("--image", type=Path, metavar="FILE")
        parser.add_argument("--not", dest="without", default="", metavar="WORDS")
        parser.add_argument("--collection", action="append", metavar="NAME")
        parser.add_argument("--as", dest="user", required=True, metavar="USER")
        parser.add_argument("--purpose", required=True, metavar="CODE")
        parser.add_argument("--limit", type=int, default=20)
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")

    def handle(self, **options: Any) -> None:
        example = read_example(options["image"])
        words = " ".join(options["words"])
        if not (words.strip() or example):
            raise CommandError("a search needs words, an image, or both")
        with services(workers=supervisor.QUERY_WORKERS):
            actor, purpose = find_user(options["user"]), find_purpose(options["purpose"])
            names = options["collection"]
            query = Query(
                words=words,
                image=example,
                without=options["without"],
                collections=names and [find_collection(name).pk for name in names],
            )
            queue.wait_for_query_worker(COLD_START_TIMEOUT_S)
            answer = search(query, actor=actor, purpose=purpose, limit=options["limit"])
        if options["json"]:
            self.stdout.write(json.dumps(as_document(answer)))
        else:
            Console(file=cast(IO[str], self.stdout)).print(as_table(answer))


def read_example(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_EXAMPLE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise CommandError("the example image cannot be read") from error
    if not content:
        raise CommandError("the example image is empty")
    if len(content) > MAX_EXAMPLE_BYTES:
        raise CommandError(f"an example image has at most {MAX_EXAMPLE_BYTES} bytes")
    return content


def as_document(answer: Answer) -> dict[str, Any]:
    return {
        "hits": [
            {
                "image": str(hit.image_id),
                "source": hit.source,
                "collection": hit.collection,
                "score": hit.score,
                "region": None,
                "time": hit.time and [round(hit.time.start_s, 3), round(hit.time.end_s, 3)],
            }
            for hit in answer.hits
        ],
        "audit": answer.audit_number,
    }


def as_table(answer: Answer) -> Table:
    caption = f"recorded as audit entry {answer.audit_number}"
    table = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("score", justify="right")
    table.add_column("source", overflow="fold")
    table.add_column("collection", overflow="fold")
    table.add_column("image", no_wrap=True, min_width=UUID_CHARS)
    for hit in answer.hits:
        source = f"{hit.source or '—'} {hit.time or ''}".rstrip()
        table.add_row(f"{hit.score:.3f}", source, hit.collection, str(hit.image_id))
    return table
