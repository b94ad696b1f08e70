import importlib.util
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.table import Table

from appliance import env
from appliance.embedded import supervisor
from appliance.embedded.supervisor import Appliance
from appliance.management.commands.search import COLD_START_TIMEOUT_S, as_table
from appliance.management.importing import import_files
from appliance.settings import BASE_DIR
from retrieval import access, audit, queue
from retrieval.errors import AccessDenied, CloisterError
from retrieval.models import Collection, PrivacyProfile, Purpose, Role, User
from retrieval.query import Query
from retrieval.search import Answer, search

TOP: Final = 5
PURPOSE: Final = Purpose.TREATMENT


class Command(BaseCommand):
    help = (
        "Import real pictures through the real workers, search them as somebody who may read one "
        "of two collections, and check every step. Works on a scratch data folder."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--images", type=Path, metavar="FOLDER", help="Your own pictures.")
        parser.add_argument("--inside", action="store_true", help="(the demo's own second half)")

    def handle(self, *, images: Path | None, inside: bool, **_options: Any) -> None:
        if images is not None and not images.is_dir():
            raise CommandError("no such folder of images")
        if inside:
            demonstrate(images)
        else:
            in_scratch_folder(images)


def in_scratch_folder(images: Path | None) -> None:
    """Run the demo in a process of its own, whose data folder goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="cloister-demo-") as scratch:
        done = subprocess.run(
            [sys.executable, "manage.py", "demo", "--inside"]
            + ([] if images is None else ["--images", str(images.resolve())]),
            cwd=BASE_DIR,
            env={**os.environ, "CLOISTER_VAR": scratch},
            check=False,
        )
    if done.returncode != 0:
        raise CommandError("the demo's checks did not all hold")


def demonstrate(images: Path | None) -> None:
    try:
        with supervisor.running(env.data_folder(), programs=supervisor.WORKERS) as own:
            demo = Demo(Console(), own)
            demo.main_job(images)
    except CloisterError as error:
        raise CommandError(str(error)) from error
    if not all(demo.checks.values()):
        raise CommandError("a check failed: see above")


class Demo:
    """The main job, told to a person, with each claim checked."""

    def __init__(self, console: Console, own: Appliance) -> None:
        self.console = console
        self.own = own
        self.checks: dict[str, bool] = {}

    def main_job(self, own: Path | None) -> None:
        operator = User.objects.get(username=access.OPERATOR)
        profile = PrivacyProfile.objects.get(name="photographs")
        photographs, radiology = (
            access.open_collection(name=name, profile=profile, actor=operator)
            for name in ("Photographs", "Radiology")
        )
        reader = User.objects.create_user("reader")
        access.give_grant(photographs, Role.CURATOR, [PURPOSE], user=reader, granted_by=operator)
        self.import_into(photographs, own or wheel_folder("skimage"), operator)
        self.import_into(radiology, wheel_folder("pydicom"), operator)
        self.console.print("\nSearching as [b]reader[/b], who may read Photographs only")
        queue.wait_for_query_worker(COLD_START_TIMEOUT_S)
        if own is None:
            self.search_the_wheels(reader)
        else:
            self.search_own(own, reader)
        self.ask_for_the_forbidden(reader, radiology)
        self.verify_the_log(operator)

    def check(self, claim: str, holds: bool) -> None:
        self.checks[claim] = holds
        self.console.print(f"  {'[green]✓[/green]' if holds else '[red]✗[/red]'} {claim}")

    def import_into(self, collection: Collection, folder: Path, operator: User) -> None:
        self.console.print(f"\nImporting into [b]{collection.name}[/b]")
        report = import_files(
            folder,
            collection,
            actor=operator,
            purpose=Purpose.ADMINISTRATION,
            wait=True,
            own=self.own,
        )
        table = Table("outcome", "files", "why", box=None)
        table.add_row("indexed", str(report["indexed"]), "")
        table.add_row("in review", str(report["review"]), "a person looks before anything else")
        for reason, count in Counter(r["reason"] for r in report["rejected"]).most_common():
            table.add_row("rejected", str(count), reason)
        self.console.print(table)
        accounted = report["indexed"] + report["review"] + len(report["rejected"])
        there = sum(len(names) for _, _, names in os.walk(folder))
        received = report["received"]  # an archive is one file in the folder and many here
        self.check(f"all {received} files are accounted for", accounted == received >= there > 0)
        self.check("some of them can be found now", report["indexed"] > 0)

    def search_the_wheels(self, reader: User) -> None:
        grey = (wheel_folder("skimage") / "chessboard_GRAY.png").read_bytes()
        moon = (wheel_folder("skimage") / "moon.png").read_bytes()
        scan = (wheel_folder("pydicom") / "test_files" / "CT_small.dcm").read_bytes()
        night = "stars in the night sky"
        galaxies = "hubble_deep_field.jpg"
        self.look("“a cat”", Query("a cat"), reader, "chelsea.png")
        self.look(f"“{night}”", Query(night), reader, galaxies)
        self.look(
            "an example: a chessboard in grey", Query(image=grey), reader, "chessboard_RGB.png"
        )
        self.look(f"both: a moon, and “{night}”", Query(night, image=moon), reader, galaxies)
        self.look("an example from Radiology", Query(image=scan), reader, None)

    def search_own(self, folder: Path, reader: User) -> None:
        """The caller's own pictures: what they show is unknown, but each is nearest to itself."""
        answer = self.look("a photograph", Query("a photograph"), reader, None)
        source = answer.hits[0].source if answer.hits else None
        if source is None or ".zip/" in source:
            return
        example = (folder / source).read_bytes()
        self.look("an example: one of them", Query(image=example), reader, source)
        self.look("both", Query("a photograph", image=example), reader, source)

    def look(self, title: str, query: Query, reader: User, expected: str | None) -> Answer:
        answer = search(query, actor=reader, purpose=PURPOSE, limit=TOP)
        self.console.print(f"\n[b]{title}[/b]")
        self.console.print(as_table(answer))
        if expected is not None:
            self.check("the expected picture is among them", expected in sources(answer))
        self.check(
            "nothing from Radiology is", all(h.collection == "Photographs" for h in answer.hits)
        )
        return answer

    def ask_for_the_forbidden(self, reader: User, radiology: Collection) -> None:
        self.console.print("\n[b]Radiology, asked for by name[/b]")
        try:
            search(Query("a scan", collections=[radiology.pk]), actor=reader, purpose=PURPOSE)
        except AccessDenied:
            denied = True
        else:
            denied = False
        self.check("denied, and on the log", denied)

    def verify_the_log(self, operator: User) -> None:
        self.console.print("\n[b]The log[/b]")
        with access.acting_as(operator, Purpose.ADMINISTRATION):
            found = audit.verify()
        self.check(f"{found.entries} entries, and the chain holds", found.holds)


def sources(answer: Answer) -> list[str | None]:
    return [hit.source for hit in answer.hits]


def wheel_folder(package: str) -> Path:
    """The folder of sample pictures in an installed wheel, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise CommandError(f"the demo needs the package {package}: run `make setup`")
    return Path(spec.origin).parent / "data"
