"""The embedded services, on a data folder of their own: crashes, second starts, clean ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from appliance import env
from appliance.embedded import postgres, supervisor
from retrieval.errors import ServicesUnavailable


def holder(var: Path) -> "subprocess.Popen[str]":
    """A process that holds the services of `var` until it is told to end."""
    program = """
        import sys, time, django
        django.setup()
        from appliance import env
        from appliance.embedded import supervisor
        with supervisor.running(env.data_folder()):
            print("up", flush=True)
            time.sleep(600)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={
            **os.environ,
            "CLOISTER_VAR": str(var),
            "DJANGO_SETTINGS_MODULE": "appliance.settings",
        },
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def held(var: Path) -> Iterator["subprocess.Popen[str]"]:
    process = holder(var)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def server(var: Path) -> Iterator[None]:
    """PostgreSQL alone on a folder that was held before: the start that all others go through."""
    child = postgres.start(var)
    try:
        yield
    finally:
        child.stop(supervisor.STOP_TIMEOUT_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that was held once."""
    folder = tmp_path_factory.mktemp("data")
    with held(folder):
        pass
    wait_for_none(folder)
    return folder


def processes_on(var: Path) -> list[int]:
    """Every process whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.fsencode(var) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for_none(var: Path) -> None:
    deadline = time.monotonic() + 60
    while processes_on(var) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_on(var) == []


def test_a_second_start_on_the_same_folder_is_refused_and_harms_nothing(folder: Path) -> None:
    with held(folder) as first:
        with pytest.raises(supervisor.AlreadyRunning) as refused, supervisor.running(folder):
            pass
        assert refused.value.pid == first.pid
        assert postgres._answers(folder)


def test_a_killed_supervisor_takes_its_servers_along_and_the_next_start_is_clean(
    folder: Path,
) -> None:
    with held(folder) as first:
        with postgres._connect(folder, "cloister") as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS row")
        first.send_signal(signal.SIGKILL)
        first.wait()
    wait_for_none(folder)

    with held(folder), postgres._connect(folder, "cloister") as connection:
        assert connection.execute("SELECT row FROM kept").fetchone() == (1,)
    wait_for_none(folder)


@pytest.mark.parametrize(
    "left",
    ["", "not a number\n", f"{os.getpid()}\n/elsewhere\n", "1\n"],
    ids=["empty", "torn", "another program's", "the first process's"],
)
def test_a_stale_lock_file_of_postgresql_is_cleared(folder: Path, left: str) -> None:
    """Empty, torn, or naming a process that by now is another program."""
    (folder / "postgres" / "postmaster.pid").write_text(left)

    with server(folder):
        assert postgres._answers(folder)
    wait_for_none(folder)


def test_an_interrupted_first_start_leaves_nothing_half_made(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18")

    with held(tmp_path):
        assert not (tmp_path / "postgres.new").exists()
    wait_for_none(tmp_path)


def test_a_lost_key_file_is_not_replaced_by_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOISTER_KEY_FILE", str(tmp_path / "gone.key"))
    (tmp_path / "store" / "ab").mkdir(parents=True)

    with pytest.raises(ServicesUnavailable, match="key file"):
        supervisor._require_key_file(tmp_path)


def test_nobody_signs_in_without_a_password(folder: Path) -> None:
    with server(folder), pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=str(env.socket_folder(folder)), user="postgres", dbname="cloister")
    wait_for_none(folder)


def test_a_data_folder_with_a_long_path_has_its_sockets_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)

    assert len(os.fsencode(env.socket_folder(deep) / ".s.PGSQL.5432")) < 108


@pytest.mark.parametrize(
    ("cores", "gigabytes", "workers"),
    [(1, 2, 2), (2, 24, 2), (16, 64, 16), (16, 9, 4), (128, 1024, 32)],
)
def test_those_who_deidentify_are_as_many_as_cores_and_memory_allow(
    cores: int, gigabytes: int, workers: int
) -> None:
    assert supervisor.workers_that_deidentify(cores, gigabytes * 1024**3) == workers


@pytest.mark.parametrize(
    ("memory", "cpu", "workers"), [("max", "max 100000", 8), (f"{9 << 30}", "300000 100000", 3)]
)
def test_a_container_s_limits_count_and_not_its_host_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, cpu: str, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else 64 << 30)
    (tmp_path / "memory.max").write_text(f"{memory}\n")
    (tmp_path / "cpu.max").write_text(f"{cpu}\n")

    assert supervisor._here(tmp_path) == workers


def test_the_web_side_opens_no_socket_that_all_appliances_of_a_user_share() -> None:
    assert "--no-control-socket" in supervisor.web(8000).command
