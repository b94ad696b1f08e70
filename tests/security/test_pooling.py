"""Through PgBouncer in transaction mode, many requests share few sessions of the database.

What one request sets must be gone before the next one, of somebody else, meets the same session.
`POOLED_REQUESTS=10000` makes the run of docs/benchmarks.md.
"""

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from appliance import env
from appliance.embedded import postgres, process
from retrieval import access
from retrieval.models import Collection, Purpose, User
from tests.factories import grant, make_collection, make_encoder, make_image, make_user

REQUESTS = int(os.environ.get("POOLED_REQUESTS", "1000"))
THREADS = 4
SESSIONS = 2
"""Fewer than threads: no request can count on the session that its thread had before."""

CONFIGURATION = """
[databases]
cloister = host={sockets} port=5432
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {sessions}
auth_type = scram-sha-256
auth_file = {folder}/users
"""


@pytest.fixture
def port(db: None, var: Path) -> Iterator[int]:
    """Where PgBouncer listens, before the embedded PostgreSQL."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.fail("no PgBouncer: install it with `apt-get install -y pgbouncer`")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="cloister-pool-") as name:
        folder, user = Path(name), env.POSTGRES_USER if os.geteuid() == 0 else None
        secrets = postgres.passwords(var)
        users = "".join(f'"cloister_{r}" "{secrets[r]}"\n' for r in ("web", "worker"))
        (folder / "users").write_text(users, encoding="utf-8")
        configuration = CONFIGURATION.format(
            sockets=env.socket_folder(var), port=port, folder=folder, sessions=SESSIONS
        )
        (folder / "pgbouncer.ini").write_text(configuration, encoding="utf-8")
        if user is not None:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, user, user)
        log = folder / "pgbouncer.log"
        child = process.start("PgBouncer", [program, folder / "pgbouncer.ini"], log=log, user=user)
        try:
            process.wait_until(lambda: answers(port), child, timeout_s=20)
            yield port
        finally:
            child.stop(timeout_s=5)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture
def pooled(port: int) -> Iterator[None]:
    """The web role's connections, of every thread, go through PgBouncer."""
    settings = connection.settings_dict
    before = settings["HOST"], settings["PORT"]
    connection.close()
    settings["HOST"], settings["PORT"] = "127.0.0.1", str(port)
    try:
        yield
    finally:
        connection.close()
        settings["HOST"], settings["PORT"] = before


@pytest.fixture
def readers(db: None) -> list[tuple[User, Collection]]:
    """Two people, each with a collection that the other may not see."""
    make_encoder()
    pairs = [(make_user(), make_collection()) for _ in range(2)]
    for reader, collection in pairs:
        grant(reader, collection)
        make_image(collection, [1, 0, 0])
    return pairs


def seen() -> list[int]:
    """The collections whose images this transaction sees, with no filter of ours."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT collection_id FROM retrieval_image")
        return [collection_id for (collection_id,) in cursor.fetchall()]


@pytest.mark.usefixtures("pooled")
def test_interleaved_requests_of_two_people_leak_nothing(
    readers: list[tuple[User, Collection]],
) -> None:
    def ask(numbers: range) -> tuple[int, int, set[int]]:
        """How many were served, how many saw another's or nothing; and by which sessions."""
        chance, leaks, sessions = random.Random(numbers.start), 0, set()  # noqa: S311  no secret
        try:
            for number in numbers:
                reader, collection = chance.choice(readers)
                context = chance.choice([access.acting_as, access.reading_as])
                with context(reader, Purpose.TREATMENT):
                    leaks += seen() != [collection.pk]
                if number % 50 == 0:
                    leaks += seen() != []  # no context, no rows, in whichever session
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT pg_backend_pid()")
                        sessions.add(int(cursor.fetchone()[0]))
        finally:
            connection.close()
        return len(numbers), leaks, sessions

    share = REQUESTS // THREADS
    with ThreadPoolExecutor(THREADS) as pool:
        asked = pool.map(ask, [range(n * share, (n + 1) * share) for n in range(THREADS)])
        served, leaks, sessions = zip(*asked, strict=True)

    assert sum(served) == REQUESTS
    assert sum(leaks) == 0
    assert len(set().union(*sessions)) <= SESSIONS


def test_a_context_set_for_the_session_would_leak_and_be_seen(
    readers: list[tuple[User, Collection]], port: int, var: Path
) -> None:
    """The control: what `acting_as` avoids is what this set-up finds."""
    (careless, theirs), _ = readers

    def connect() -> "psycopg.Connection[tuple[int]]":
        return psycopg.connect(
            host="127.0.0.1",
            port=port,
            dbname="cloister",
            user="cloister_web",
            password=postgres.passwords(var)["web"],
            autocommit=True,
            prepare_threshold=None,
        )

    with connect() as first:
        first.execute("SELECT set_config('cloister.actor', %s, false)", [str(careless.pk)])
        first.execute("SELECT set_config('cloister.purpose', 'TREAT', false)")
    with connect() as second:
        rows = second.execute("SELECT DISTINCT collection_id FROM retrieval_image").fetchall()

    assert rows == [(theirs.pk,)]
