from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from appliance.management.console import find_user, services
from appliance.web import sessions
from retrieval import access, second_factor


class Command(BaseCommand):
    help = "Forget the authenticator app and recovery codes of somebody who lost both."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user")

    def handle(self, *, user: str, **_options: Any) -> None:
        with services():
            target = find_user(user)
            second_factor.reset(target, actor=find_user(access.OPERATOR))
            sessions.end(target)
            self.stdout.write(f"user {target.pk} sets up a new second factor at the next sign-in")
