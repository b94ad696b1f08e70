"""The test database seen from outside the application's own role."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from django.db import connection
from psycopg import sql

from appliance import env
from appliance.embedded import postgres

# What a fresh appliance has and no test takes away.
KEPT = {
    "django_migrations",
    "django_content_type",
    "auth_permission",
    "retrieval_privacyprofile",
    "retrieval_audithead",
    "retrieval_user",
    "retrieval_user_user_permissions",
}


def connect(var: Path, role: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=str(env.socket_folder(var)),
        dbname="cloister",
        user="postgres" if role == "superuser" else f"cloister_{role}",
        password=postgres.passwords(var)[role],
        autocommit=True,
    )


def empty(var: Path) -> None:
    """Back to the first day: no collections, no partitions, no users but the operator."""
    with connect(var, "superuser") as superuser:
        # Replica mode: no triggers, so the log's append-only trigger lets us.
        superuser.execute("SET session_replication_role = replica")
        names = [
            str(name)
            for (name,) in superuser.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND NOT relispartition"
                " AND relnamespace = 'public'::regnamespace"
            )
            if name not in KEPT
        ]
        partitions = superuser.execute(
            "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
        ).fetchall()
        for (name,) in partitions:
            superuser.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(str(name))))
        for name in names:
            superuser.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)))
        superuser.execute("DELETE FROM retrieval_user WHERE username <> 'operator'")
        superuser.execute("UPDATE retrieval_user SET is_active = true")
        superuser.execute(
            "DELETE FROM retrieval_privacyprofile"
            " WHERE name NOT IN ('photographs', 'documents', 'clinical')"
        )
        superuser.execute(
            "UPDATE retrieval_audithead SET number = 0, entry_hash = sha256('cloister audit log')"
        )


def plan_of(sent: str) -> str:
    """The plan of the last statement of a message; those before it are done first."""
    *before, last = sent.split("; ")
    with connection.cursor() as cursor:
        for statement in before:
            cursor.execute(statement)
        cursor.execute(f"EXPLAIN {last}")
        return " ".join(row[0] for row in cursor.fetchall())


@contextmanager
def role(name: str) -> Iterator[None]:
    """Let Django's default connection sign in as another of the appliance's roles."""
    before = connection.settings_dict["USER"]
    connection.close()
    connection.settings_dict["USER"] = f"cloister_{name}"
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["USER"] = before
