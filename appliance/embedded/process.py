"""Child processes that cannot outlive the one that started them."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import ServicesUnavailable

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    log: Path

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, timeout_s: float) -> None:
        """Ask the child to end; end its whole session where it has not within `timeout_s`."""
        if self.is_alive():
            self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: Path | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Child:
    """Start `command` in a session of its own, its output appended to `log`.

    Should this process be killed, the kernel sends the child `stop_signal`. A ^C at the terminal
    does not reach it: children are stopped by us, in order.
    """

    def die_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(stop_signal))

    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
            user=user,
            group=user,
            cwd=cwd,
            extra_groups=None if user is None else [],
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509  called before any thread of ours starts
        )
    return Child(name, process, stop_signal, log)


def wait_until(ready: Callable[[], bool], child: Child, *, timeout_s: float) -> None:
    """Return once `ready()`. Raises ServicesUnavailable when the child ends or time is up, and
    leaves no child behind then."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if ready():
            return
        if not child.is_alive():
            raise ServicesUnavailable(f"{child.name} ended at its start; see {child.log}")
        time.sleep(0.05)
    child.stop(timeout_s=5.0)
    raise ServicesUnavailable(f"{child.name} did not answer within {timeout_s:.0f} s")
