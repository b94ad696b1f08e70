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
def up(var: Path, port: int, *, ended_by: signal.Signals = signal.SIGINT) -> Iterator[list[str]]:
    """The running appliance: what it printed until it was ready. No process outlives it."""
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
        yield lines
        process.send_signal(ended_by)
        assert process.wait(60) == (0 if ended_by == signal.SIGINT else -ended_by)
        # The kernel tells a killed one's children at once; a worker first finishes what it holds.
        deadline = time.monotonic() + (0 if ended_by == signal.SIGINT else 60)
        while processes_of(var) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert processes_of(var) == []
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


@pytest.mark.timeout(900)
def test_up_serves_says_where_stops_cleanly_and_finds_its_data_again_and_leaves_no_process_behind(
    tmp_path: Path,
) -> None:
    var, port = tmp_path, free_port()
    with up(var, port) as said:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sign-in", timeout=10) as answer:
            assert answer.status == 200
        assert f"http://127.0.0.1:{port}/" in said[0]
        assert str(var / "secrets" / "key-encryption.key") in said[1]
        assert "one-time password: " in said[2]
        assert manage(var, "collection", "create", "Kept").returncode == 0
        second = manage(var, "up", "--port", str(free_port()))
        assert (second.returncode, second.stdout) == (1, "")
        assert "in use by process" in second.stderr

    with up(var, port, ended_by=signal.SIGKILL):
        assert "Kept" in manage(var, "collection", "list").stdout


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = manage(tmp_path, "up", "--port", str(taken.getsockname()[1]))

    assert refused.returncode == 1
    assert "is taken" in refused.stderr
    assert not (tmp_path / "postgres").exists()
