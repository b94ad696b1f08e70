from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from appliance.management.console import find_collection, find_purpose, find_user, services
from retrieval import access
from retrieval.models import Role


class Command(BaseCommand):
    help = "Let a user act in a collection, in a role and for purposes of use."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--collection", required=True, metavar="NAME")
        parser.add_argument("--role", default=Role.SEARCHER.value, metavar="ROLE")
        parser.add_argument("--purpose", action="append", required=True, metavar="CODE")

    def handle(self, *, user: str, collection: str, **options: Any) -> None:
        try:
            role = Role(options["role"])
        except ValueError as error:
            raise CommandError(f"no role {options['role']!r}") from error
        with services():
            purposes = [find_purpose(code) for code in options["purpose"]]
            target = find_collection(collection)
            if unfit := sorted(set(purposes) - set(target.purposes)):
                raise CommandError(f"that collection may not be used for {', '.join(unfit)}")
            grant = access.give_grant(
                target,
                role,
                purposes,
                user=find_user(user),
                granted_by=find_user(access.OPERATOR),
            )
            self.stdout.write(f"grant {grant.pk} given")
