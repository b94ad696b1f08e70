"""manage.py benchmark: the measurements of docs/benchmarks.md, in one run each."""

import json
import os
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError
from rich import box
from rich.console import Console
from rich.table import Table as Drawn

from retrieval import access
from retrieval.errors import CloisterError
from retrieval.models import PrivacyProfile, User
from workers.benchmark.table import Cell, Setting, Table

_DEFAULT_DATA = "../shared/data"

# Name → the module whose `tables(setting)` yields what it measured. Imported on use: each loads
# models of its own.
BENCHMARKS = {
    "adapters": "workers.benchmark.adapters",
    "confident": "workers.benchmark.confident",
    "deidentify": "workers.benchmark.deidentify",
    "encode": "workers.benchmark.encode",
    "finetune": "workers.benchmark.finetune",
    "index": "workers.benchmark.index",
    "ingest": "workers.benchmark.ingest",
    "regions": "workers.benchmark.regions",
    "search": "workers.benchmark.search",
    "tags": "workers.benchmark.tags",
    "reports": "workers.benchmark.reports",
}


LEAST_ROWS = 1000


class Command(BaseCommand):
    """Needs no broker, no network and no database but its own; with --profile the database."""

    help = "Measure one part of the appliance; without public data, on what wheels bring."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help=", ".join(BENCHMARKS))
        parser.add_argument(
            "--data",
            type=Path,
            default=Path(os.environ.get("CLOISTER_DATA", _DEFAULT_DATA)),
            metavar="DIR",
            help="public data (default: CLOISTER_DATA or ../shared/data)",
        )
        parser.add_argument("--files", type=int, metavar="N", help="at most N files of each set")
        parser.add_argument(
            "--profile",
            metavar="NAME",
            help="of deidentify: judge this profile by what reviewers released, too",
        )
        parser.add_argument("--as", dest="user", default=access.OPERATOR, metavar="USER")
        parser.add_argument(
            "--vectors",
            "--rows",
            dest="rows",
            type=int,
            metavar="N",
            help="vectors to make (search, index)",
        )
        parser.add_argument("--images", type=Path, metavar="FOLDER", help="pictures (ingest)")
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(
        self,
        *,
        name: str,
        data: Path,
        files: int | None = None,
        profile: str | None = None,
        user: str = access.OPERATOR,
        rows: int | None = None,
        images: Path | None = None,
        json: bool,
        **_options: Any,
    ) -> None:
        if name not in BENCHMARKS:
            raise CommandError(f"no benchmark named {name!r}; there are {', '.join(BENCHMARKS)}")
        if files is not None and files < 1:
            raise CommandError("--files must be at least 1")
        if rows is not None and rows < LEAST_ROWS:
            raise CommandError(f"--vectors must be at least {LEAST_ROWS}")
        if not data.is_dir():
            self.stderr.write("no public data (--data, CLOISTER_DATA): only what wheels bring")
        if images is not None and not images.is_dir():
            raise CommandError("no such folder of images")
        setting = Setting(data, files, rows=rows, say=self.stderr.write, images=images)
        if profile is not None:
            setting = Setting(data, files, *_reviewed_by(profile, user))
        tables = self._told(import_module(BENCHMARKS[name]).tables(setting))
        try:
            if json:
                self.stdout.write(_as_json(name, list(tables)))
            else:
                _print(tables, Console(file=cast(IO[str], self.stdout)))
        except CloisterError as exc:
            raise CommandError(str(exc)) from exc

    def _told(self, tables: Iterator[Table]) -> Iterator[Table]:
        """Say on stderr when each table is measured: some take minutes."""
        started = time.monotonic()
        for table in tables:
            self.stderr.write(f"{table.title}: measured after {time.monotonic() - started:.0f} s")
            yield table


def _reviewed_by(profile: str, user: str) -> tuple[PrivacyProfile, User]:
    try:
        return PrivacyProfile.objects.get(name=profile), User.objects.get(username=user)
    except (PrivacyProfile.DoesNotExist, User.DoesNotExist) as exc:
        raise CommandError("there is no such profile or no such user") from exc
    except (OperationalError, InterfaceError) as exc:
        raise CommandError("the database does not answer; is the appliance up?") from exc


def _as_json(name: str, tables: list[Table]) -> str:
    return json.dumps(
        {"benchmark": name, "tables": [asdict(table) for table in tables]},
        indent=2,
        ensure_ascii=False,
    )


def _print(tables: Iterator[Table], console: Console) -> None:
    for table in tables:
        drawn = Drawn(
            title=table.title,
            caption=table.note,
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for heading in table.rows[0]:
            drawn.add_column(heading)
        for row in table.rows:
            drawn.add_row(*(_shown(value) for value in row.values()))
        console.print(drawn)


def _shown(value: Cell) -> str:
    return "–" if value is None else str(value)
