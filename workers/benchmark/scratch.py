"""An empty appliance of a benchmark's own: its database, and nothing of anybody's."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
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
        servers = subprocess.Popen(
            [sys.executable, "manage.py", "servers", "--json"],
            cwd=settings.BASE_DIR,
            env=_own_environment(folder),
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


@contextmanager
def appliance(port: int) -> Iterator[Callable[..., str]]:
    """All that `up` runs, empty. Yields what runs one of its commands and returns what it says."""
    with tempfile.TemporaryDirectory(prefix="cloister-benchmark-") as folder:

        def manage(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, "manage.py", *arguments],
                cwd=settings.BASE_DIR,
                env=_own_environment(folder),
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            if done.returncode:
                raise ServicesUnavailable(f"{arguments[0]} failed in the benchmark's appliance")
            return done.stdout

        up = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", str(port)],
            cwd=settings.BASE_DIR,
            env=_own_environment(folder),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if not (up.stdout and up.stdout.readline()):
                raise ServicesUnavailable("the benchmark's appliance does not start")
            yield manage
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(timeout=60)


_OF_AN_INSTALLATION = (
    *("DATABASE_URL", "BROKER_URL", "CLOISTER_VAR", "CLOISTER_KEY_FILE", "CLOISTER_CHECKPOINTS"),
    *("CLOISTER_METRICS", "CLOISTER_SYSLOG", "CLOISTER_OFFICER_MAIL", "CLOISTER_SIGN_IN"),
)


def _own_environment(folder: str) -> dict[str, str]:
    """Ours, without the services and files of an installation that may be here."""
    own = {k: v for k, v in os.environ.items() if not any(n in k for n in _OF_AN_INSTALLATION)}
    return own | {"CLOISTER_VAR": str(Path(folder) / "var")}


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
