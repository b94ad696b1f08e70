from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from appliance.management.console import find_user, services
from appliance.web import sessions
from retrieval import access, holds, second_factor
from retrieval.models import holds_on


class Command(BaseCommand):
    help = (
        "Forget app and recovery codes of somebody who lost both, and let the account open again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user")

    def handle(self, *, user: str, **_options: Any) -> None:
        with services():
            target = find_user(user)
            operator = find_user(access.OPERATOR)
            second_factor.reset(target, actor=operator)
            sessions.end(target)
            # The last resort, where there is no second person left to ask.
            for hold in holds_on(target):
                holds.lift(hold.pk, actor=operator)
            self.stdout.write(f"user {target.pk} sets up a new second factor at the next sign-in")
