import json
import uuid
from argparse import ArgumentTypeError
from dataclasses import astuple, replace
from datetime import date
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from appliance.embedded import supervisor
from appliance.management.console import find_collection, find_purpose, find_user, services
from appliance.web import refused
from retrieval import queue
from retrieval.errors import CloisterError
from retrieval.index import Filter, Metric
from retrieval.models.image import Region
from retrieval.query import Fusion, Group, LookIn, Part, Query
from retrieval.search import MAX_LIMIT, Answer, search

MAX_EXAMPLE_BYTES = 20 * 1024 * 1024
COLD_START_TIMEOUT_S = 180.0
UUID_CHARS = 36
DATES = ("taken_from", "taken_until", "received_from", "received_until")
NAMES_AN_IMAGE = ("like", "not_like", "liked", "disliked")
CROP_HELP = "Search by this part of the --image or --like, in pixels of the upright image."
TAG_HELP = "It bears all of them, set by people or by the encoder; --peoples-tag: by people."
METRIC_HELP = ", ".join(metric.name.lower() for metric in Metric)


class Command(BaseCommand):
    help = "Search by words, by example, by a stored image or a part of one, as a user."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("words", nargs="*")
        parser.add_argument("--image", type=Path, action="append", default=[], metavar="FILE")
        parser.add_argument("--like", type=uuid.UUID, action="append", default=[], metavar="ID")
        parser.add_argument("--crop", type=region, metavar="x,y,w,h", help=CROP_HELP)
        parser.add_argument("--not", dest="without", action="append", default=[], metavar="WORDS")
        parser.add_argument("--not-image", type=Path, action="append", default=[], metavar="FILE")
        parser.add_argument("--not-like", type=uuid.UUID, action="append", default=[], metavar="ID")
        parser.add_argument("--liked", type=uuid.UUID, action="append", default=[], metavar="ID")
        parser.add_argument("--disliked", type=uuid.UUID, action="append", default=[], metavar="ID")
        parser.add_argument("--collection", action="append", metavar="NAME")
        parser.add_argument("--taken-from", type=date.fromisoformat, metavar="YYYY-MM-DD")
        parser.add_argument("--taken-until", type=date.fromisoformat, metavar="YYYY-MM-DD")
        parser.add_argument("--received-from", type=date.fromisoformat, metavar="YYYY-MM-DD")
        parser.add_argument("--received-until", type=date.fromisoformat, metavar="YYYY-MM-DD")
        parser.add_argument("--type", action="append", default=[], metavar="MEDIA/TYPE")
        parser.add_argument("--modality", action="append", default=[], metavar="CODE")
        parser.add_argument("--tag", action="append", default=[], help=TAG_HELP)
        parser.add_argument("--peoples-tag", action="append", default=[], metavar="TAG")
        parser.add_argument("--subject", type=int, action="append", default=[], metavar="ID")
        parser.add_argument("--metric", type=metric, default="cosine", help=METRIC_HELP)
        parser.add_argument("--fusion", type=Fusion, choices=list(Fusion), default=Fusion.SPACE)
        parser.add_argument("--diversity", type=float, default=0.0, metavar="0…1")
        parser.add_argument("--group", type=Group, choices=list(Group))
        parser.add_argument(
            "--in",
            dest="look_in",
            type=LookIn,
            choices=list(LookIn),
            default=LookIn.BOTH,
            help="What words are held against: pictures, the reports that came with them, or both.",
        )
        parser.add_argument("--as", dest="user", required=True, metavar="USER")
        parser.add_argument("--purpose", required=True, metavar="CODE")
        parser.add_argument("--limit", type=int, default=20)
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")

    def handle(self, **options: Any) -> None:
        # Asked before anything is started: a wrong question needs no services.
        question = read_question(options)
        with services(workers=supervisor.QUERY_WORKERS):
            actor, purpose = find_user(options["user"]), find_purpose(options["purpose"])
            names = options["collection"]
            within = names and [find_collection(name).pk for name in names]
            queue.wait_for_query_worker(COLD_START_TIMEOUT_S)
            try:
                answer = search(
                    replace(question, collections=within),
                    actor=actor,
                    purpose=purpose,
                    limit=options["limit"],
                )
            except (CloisterError, ValueError) as error:
                names_an_image = any(options[name] for name in NAMES_AN_IMAGE)
                known = refused.why(error, names_an_image=names_an_image)
                if known is None:
                    raise
                raise CommandError(known[0]) from error
        if options["json"]:
            self.stdout.write(json.dumps(as_document(answer)))
        else:
            Console(file=cast(IO[str], self.stdout)).print(as_table(answer))


def region(text: str) -> Region:
    try:
        return Region.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def metric(text: str) -> Metric:
    try:
        return Metric[text.upper().replace("-", "_")]
    except KeyError as error:
        raise ArgumentTypeError("there is no such metric") from error


def read_question(options: dict[str, Any]) -> Query:
    if not 1 <= options["limit"] <= MAX_LIMIT:
        raise CommandError(f"--limit is 1 to {MAX_LIMIT}")
    crop = options["crop"]
    pictures = [Part(image=read_example(path)) for path in options["image"]]
    pictures += [Part(like=image_id) for image_id in options["like"]]
    if crop is not None:
        if len(pictures) != 1:
            raise CommandError("--crop needs exactly one --image or --like")
        pictures = [replace(pictures[0], region=crop)]
    unwanted = [Part(words=words, weight=-1.0) for words in options["without"] if words.strip()]
    unwanted += [Part(image=read_example(p), weight=-1.0) for p in options["not_image"]]
    unwanted += [Part(like=image_id, weight=-1.0) for image_id in options["not_like"]]
    where = Filter(
        **{name: options[name] for name in DATES},
        media_types=tuple(options["type"]),
        modalities=tuple(code.upper() for code in options["modality"]),
        tags=tuple(options["tag"]),
        peoples_tags=tuple(options["peoples_tag"]),
        subjects=tuple(options["subject"]),
    )
    try:
        return Query(
            words=" ".join(options["words"]),
            parts=(*pictures, *unwanted),
            liked=tuple(options["liked"]),
            disliked=tuple(options["disliked"]),
            where=where,
            metric=options["metric"],
            fusion=options["fusion"],
            diversity=options["diversity"],
            group=options["group"],
            look_in=options["look_in"],
        )
    except ValueError as error:
        raise CommandError(str(error)) from error


def read_example(path: Path) -> bytes:
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
                "region": hit.region and astuple(hit.region),
                "found_in": hit.found_in,
                "time": hit.time and [round(hit.time.start_s, 3), round(hit.time.end_s, 3)],
            }
            for hit in answer.hits
        ],
        "confident": answer.confident,
        "audit": answer.audit_number,
    }


def as_table(answer: Answer) -> Table:
    caption = f"recorded as audit entry {answer.audit_number}"
    if answer.confident is False:
        caption = f"no confident match; {caption}"
    table = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("score", justify="right")
    table.add_column("source", overflow="fold")
    table.add_column("collection", overflow="fold")
    table.add_column("image", no_wrap=True, min_width=UUID_CHARS)
    for hit in answer.hits:
        source = f"{hit.source or '—'} {hit.time or ''}".rstrip()
        table.add_row(f"{hit.score:.3f}", source, hit.collection, str(hit.image_id))
    return table
