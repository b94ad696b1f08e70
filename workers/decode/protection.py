"""How much is taken away from a decoding process on this host, tried out and not assumed."""

import ctypes
import errno
import mmap
import os
import socket
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn

from workers.decode.confine import confine
from workers.decode.limits import Limits


class Protection(IntEnum):
    """What the host lets us take away; each holds all of the ones before it. There is none lower.

    FILTERED: limits of memory and time, no privileges, and a filter that refuses every system
    call decoding does not make, so no file, socket or process.
    LANDLOCKED: the file system is closed a second time, by Landlock.
    ISOLATED: and the process lives in a network of its own, with nothing in it.
    """

    FILTERED = 1
    LANDLOCKED = 2
    ISOLATED = 3


def try_out(*, network_left: bool) -> Protection | None:
    """Confine a child as one that decodes is, try to get out, and return what held.

    network_left: whether this process is in an empty network. None if the child got out, or
    could not be confined: nothing must be decoded then.
    """
    pid = os.fork()
    if pid == 0:
        _attempt(network_left=network_left)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Protection(status) if status in set(Protection) else None


def _attempt(*, network_left: bool) -> NoReturn:
    held = 0
    try:
        has_landlock = confine(Limits())
        if all(_is_refused(attempt) for attempt in _ATTEMPTS) and _limits_hold():
            held = Protection.FILTERED
            if has_landlock:
                held = Protection.ISOLATED if network_left else Protection.LANDLOCKED
    finally:
        os._exit(held)


def _open_a_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _read_a_file() -> None:
    os.open("/proc/self/status", os.O_RDONLY)


def _write_a_file() -> None:
    os.open("/tmp/cloister", os.O_WRONLY | os.O_CREAT)  # noqa: S108 - it shall fail


def _run_a_program() -> None:
    os.execv("/nonexistent", ["nonexistent"])  # noqa: S606


def _start_a_process() -> None:
    if os.fork() == 0:
        os._exit(0)


def _signal_another_process() -> None:
    os.kill(os.getpid(), 0)


def _trace_another_process() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


_ATTEMPTS: tuple[Callable[[], None], ...] = (
    _open_a_socket,
    _read_a_file,
    _write_a_file,
    _run_a_program,
    _start_a_process,
    _signal_another_process,
    _trace_another_process,
)


def _is_refused(attempt: Callable[[], None]) -> bool:
    """Whether the filter refuses it. The limits alone would answer EMFILE, ENOENT or EAGAIN."""
    try:
        attempt()
    except OSError as exc:
        return exc.errno == errno.EPERM
    return False


def _limits_hold() -> bool:
    try:
        mmap.mmap(-1, 2 * Limits().memory_bytes)
    except OSError as exc:
        return exc.errno == errno.ENOMEM
    return False
