"""`manage.py up` as an administrator meets it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.settings import BASE_DIR


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(var: Path) -> dict[str, str]:
    return {**os.environ, "CLOISTER_VAR": str(var)}


def processes_of(var: Path) -> list[int]:
    """Every process that was started for this data folder."""
    mark = os.fsencode(f"CLOISTER_VAR={var}")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@contextmanager
def up(var: Path, port: int) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """The running appliance and what it printed until it was ready."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "up", "--port", str(port)],
        cwd=BASE_DIR,
        env=environment(var),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("stop with"):
                break
        yield process, lines
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()


def manage(var: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env=environment(var),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


def test_up_serves_says_where_stops_cleanly_and_finds_its_data_again(var: Path) -> None:
    port = free_port()
    with up(var, port) as (_, said):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sign-in", timeout=10) as answer:
            assert answer.status == 200
        assert f"http://127.0.0.1:{port}/" in said[0]
        assert str(var / "secrets" / "key-encryption.key") in said[1]
        assert "one-time password: " in said[2]
        assert manage(var, "collection", "create", "Kept").returncode == 0
        second = manage(var, "up", "--port", str(free_port()))
        assert (second.returncode, second.stdout) == (1, "")
        assert "in use by process" in second.stderr
    assert processes_of(var) == []

    with up(var, port):
        assert "Kept" in manage(var, "collection", "list").stdout
    assert processes_of(var) == []


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = manage(tmp_path, "up", "--port", str(taken.getsockname()[1]))

    assert refused.returncode == 1
    assert "is taken" in refused.stderr
    assert not (tmp_path / "postgres").exists()


def test_a_killed_appliance_leaves_no_process_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "up", "--port", str(free_port())],
        cwd=BASE_DIR,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("stop with"):
        assert process.poll() is None

    process.kill()
    process.wait()

    # The kernel tells the children at once; a worker first finishes what it holds.
    deadline = time.monotonic() + 60
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(tmp_path) == []
