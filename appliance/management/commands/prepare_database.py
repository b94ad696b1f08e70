from typing import Any

from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection
from psycopg import sql

from appliance import env
from appliance.embedded import postgres
from retrieval.models import User


class Command(BaseCommand):
    help = (
        "Migrate, and let the web and worker roles sign in. Runs as the database's owner "
        "(CLOISTER_DATABASE_ROLE=owner, or DATABASE_URL naming it); run it again at every upgrade."
    )
    requires_system_checks: list[str] = []

    def handle(self, **_options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=0)
        # Permissions exist only after the last migration, so this cannot be one.
        User.objects.get(username="operator").user_permissions.add(
            *Permission.objects.filter(codename__in=("view_auditevent", "lift_hold"))
        )
        for role, password in self.passwords().items():
            with connection.cursor() as cursor:
                cursor.execute(
                    sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(f"cloister_{role}"), sql.Literal(password)
                    )
                )

    def passwords(self) -> dict[str, str]:
        """The embedded server's own; for an external one, those handed in as secrets, if any."""
        if env.uses_embedded_database():
            own = postgres.passwords(env.data_folder())
            return {role: own[role] for role in ("web", "worker")}
        given = {
            role: env.read_secret(f"{role.upper()}_DATABASE_PASSWORD") for role in ("web", "worker")
        }
        return {role: password for role, password in given.items() if password}
