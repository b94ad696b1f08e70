import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from appliance.management.console import find_user, services
from retrieval import access
from retrieval import audit as log
from retrieval.models import Kind, Purpose


class Command(BaseCommand):
    help = "Check that the log is as it was written."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verify = verbs.add_parser("verify")
        verify.add_argument("--json", action="store_true", help="Print one JSON document.")

    def handle(self, **options: Any) -> None:
        with services():
            operator = find_user(access.OPERATOR)
            with access.acting_as(operator, Purpose.ADMINISTRATION):
                found = log.verify()
            log.record(
                Kind.AUDIT_VERIFIED,
                actor=operator,
                purpose=Purpose.ADMINISTRATION,
                entries=found.entries,
                first_wrong=found.first_wrong,
            )
        if options["json"]:
            document = {
                "entries": found.entries,
                "head": found.head.hex(),
                "holds": found.holds,
                "first_wrong": found.first_wrong,
                "problem": found.problem or None,
            }
            self.stdout.write(json.dumps(document))
        if not found.holds:
            raise CommandError(f"entry {found.first_wrong} is wrong: {found.problem}")
        if not options["json"]:
            self.stdout.write(f"{found.entries} entries, the chain holds")
