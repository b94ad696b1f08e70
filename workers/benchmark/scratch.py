"""An empty appliance of a benchmark's own: its database, and nothing of anybody's."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from django.conf import settings
from django.db import connection

from retrieval.errors import ServicesUnavailable


@contextmanager
def database() -> Iterator[None]:
    """Django's connection is one to a new, empty database, as the web side's role.

    The broker and the key file are the new appliance's, too.
    """
    with tempfile.TemporaryDirectory(prefix="cloister-benchmark-") as folder:
        own = {name: value for name, value in os.environ.items() if not _names_services(name)}
        servers = subprocess.Popen(
            [sys.executable, "manage.py", "servers", "--json"],
            cwd=settings.BASE_DIR,
            env=own | {"CLOISTER_VAR": str(Path(folder) / "var")},
            stdout=subprocess.PIPE,
            text=True,
        )
        before = dict(connection.settings_dict)
        services = (settings.CLOISTER_BROKER_URL, settings.CLOISTER_KEY_FILE)
        try:
            said = servers.stdout.readline() if servers.stdout else ""
            if not said:
                raise ServicesUnavailable("the benchmark's database does not start")
            connection.close()
            connection.settings_dict.update(json.loads(said), USER="cloister_web")
            sockets = connection.settings_dict["HOST"]
            settings.CLOISTER_BROKER_URL = f"redis+socket://{sockets}/valkey.sock"
            settings.CLOISTER_KEY_FILE = Path(folder) / "var/secrets/key-encryption.key"
            yield
        finally:
            connection.close()
            connection.settings_dict.update(before)
            settings.CLOISTER_BROKER_URL, settings.CLOISTER_KEY_FILE = services
            servers.send_signal(signal.SIGINT)
            servers.wait(timeout=60)


def _names_services(name: str) -> bool:
    return any(each in name for each in ("DATABASE_URL", "BROKER_URL", "CLOISTER_KEY_FILE"))


@contextmanager
def as_role(name: str) -> Iterator[None]:
    """Let Django's connection sign in as another role of the scratch database."""
    before = connection.settings_dict["USER"]
    connection.close()
    connection.settings_dict["USER"] = f"cloister_{name}"
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["USER"] = before


def as_owner() -> psycopg.Connection[tuple[object, ...]]:
    """For what only the owner of the tables may do: other tables to compare with."""
    told = connection.settings_dict
    return psycopg.connect(
        host=told["HOST"],
        port=told["PORT"],
        dbname=told["NAME"],
        user="cloister_owner",
        passfile=told["OPTIONS"]["passfile"],
        autocommit=True,
    )
