"""The test database seen from outside the application's own role."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
from django.db import connection, connections
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
    try:
        _emptier(var).execute("SELECT pg_temp.empty()")
    except psycopg.OperationalError:  # a test that breaks the database broke this session too
        _emptier.cache_clear()
        _emptier(var).execute("SELECT pg_temp.empty()")


@cache
def _emptier(var: Path) -> psycopg.Connection[tuple[object, ...]]:
    """A session kept for the whole run: what empties the tables is planned once, not for each."""
    superuser = connect(var, "superuser")
    # Replica mode: no triggers, so the log's append-only trigger lets us.
    superuser.execute("SET session_replication_role = replica")
    names = superuser.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace AND relname <> ALL (%s)",
        [sorted(KEPT)],
    ).fetchall()
    deletions = sql.SQL("").join(
        sql.SQL("DELETE FROM {};\n").format(sql.Identifier(str(name))) for (name,) in names
    )
    superuser.execute(
        sql.SQL(
            """
            CREATE FUNCTION pg_temp.empty() RETURNS void LANGUAGE plpgsql AS $$
            DECLARE partition regclass;
            BEGIN
                FOR partition IN SELECT oid FROM pg_class WHERE relispartition AND relkind = 'r'
                LOOP EXECUTE 'DROP TABLE ' || partition; END LOOP;
                {deletions}
                DELETE FROM retrieval_user WHERE username <> 'operator';
                UPDATE retrieval_user SET is_active = true WHERE NOT is_active;
                DELETE FROM retrieval_privacyprofile
                    WHERE name NOT IN ('photographs', 'documents', 'clinical');
                UPDATE retrieval_audithead
                    SET number = 0, entry_hash = sha256('cloister audit log');
            END $$
            """
        ).format(deletions=deletions)
    )
    return superuser


def rest() -> None:
    """Leave Django's session to the next test as a new one would be, or close it."""
    if connection.connection is None:
        return
    try:
        connection.connection.rollback()
        connection.connection.execute("DISCARD ALL")
    except psycopg.Error:
        connection.close()


_sessions = threading.local()


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
    """Let Django's default connection sign in as another of the appliance's roles.

    Each role's session is kept: tests change roles thousands of times. Threads that start in here
    are of that role as well.
    """
    settings, before = connections.settings["default"], connections["default"]
    user, settings["USER"] = settings["USER"], f"cloister_{name}"
    other = getattr(_sessions, name, None)
    if other is None or other.settings_dict != settings:
        other = connections.create_connection("default")
        other.settings_dict = dict(settings)
        setattr(_sessions, name, other)
    connections["default"] = other
    try:
        yield
    finally:
        rest()
        settings["USER"], connections["default"] = user, before
