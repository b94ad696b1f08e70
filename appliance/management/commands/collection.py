from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from appliance.management.console import find_user, services
from retrieval import access
from retrieval.models import Collection, PrivacyProfile


class Command(BaseCommand):
    help = "Open a collection, or list those there are."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create")
        create.add_argument("name")
        create.add_argument("--description", default="")
        create.add_argument("--profile", default="photographs", metavar="NAME")
        create.add_argument("--as", dest="user", default=access.OPERATOR, metavar="USER")
        create.add_argument(
            "--no-parts",
            dest="finds_parts",
            action="store_false",
            help="Images are found as wholes only: encoding large ones takes a fifth of the time.",
        )
        verbs.add_parser("list")

    def handle(self, *, verb: str, **options: Any) -> None:
        with services():
            if verb == "list":
                for collection in Collection.objects.all():
                    self.stdout.write(f"{collection.pk}\t{collection.name}")
                return
            collection = access.open_collection(
                name=options["name"],
                description=options["description"],
                profile=find_profile(options["profile"]),
                actor=find_user(options["user"]),
                finds_parts=options["finds_parts"],
            )
            self.stdout.write(f"collection {collection.pk} is open")


def find_profile(name: str) -> PrivacyProfile:
    try:
        return PrivacyProfile.objects.get(name=name)
    except PrivacyProfile.DoesNotExist as error:
        raise CommandError(f"no privacy profile named {name!r}") from error
