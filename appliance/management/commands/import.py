import json
from collections import Counter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from appliance.embedded import supervisor
from appliance.management.console import find_collection, find_purpose, find_user, services
from appliance.management.importing import import_files
from retrieval import access
from retrieval.models import Purpose
from retrieval.tags import require_fit


class Command(BaseCommand):
    help = "Import a folder, a file or a zip archive into a collection."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path)
        parser.add_argument("--collection", required=True, metavar="NAME")
        parser.add_argument(
            "--tag",
            dest="tags",
            action="append",
            default=[],
            metavar="NAME",
            help="Of all that is new; several one by one. No names of persons.",
        )
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
        tags = list(dict.fromkeys(options["tags"]))
        try:
            require_fit(tags)
        except ValueError as error:
            raise CommandError(str(error)) from error
        workers = supervisor.INGEST_WORKERS if options["wait"] else ()
        with services(workers=workers) as own:
            actor, purpose = find_user(options["user"]), find_purpose(options["purpose"])
            collection = find_collection(options["collection"])
            report = import_files(
                path,
                collection,
                actor=actor,
                purpose=purpose,
                wait=options["wait"],
                own=own,
                tags=tags,
            )
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
