"""A confined process can use the memory it was given, and nothing else."""

import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import Callable

import pytest

from workers.decode.confine import NOBODY, confine, leave_network
from workers.decode.limits import Limits

FORBIDDEN = 2
PR_SET_DUMPABLE = 4
DEFAULT = Limits()


def in_child(action: Callable[[], object], limits: Limits | None = DEFAULT) -> int:
    """Run `action` in a process confined to `limits`; return its exit code, 0 at its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if limits:
                confine(limits)
            status = FORBIDDEN
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def status_of_confined(prepare: Callable[[], object] = lambda: None) -> dict[str, str]:
    """What the kernel says about a confined process (proc(5), status), after `prepare`."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            # Opened before, because a confined process opens nothing.
            held = os.open("/proc/self/status", os.O_RDONLY)
            confine(Limits())
            os.write(write, os.read(held, 65536))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="ascii") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return {key: value.strip() for key, _, value in (x.partition(":") for x in text.splitlines())}


def test_a_confined_process_may_think() -> None:
    assert in_child(lambda: None) == 0


@pytest.mark.parametrize(
    "action",
    [
        lambda: os.close(os.open("/proc/self/status", os.O_RDONLY)),
        lambda: os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY)),
        lambda: socket.socket().close(),
        lambda: os.close(os.pipe()[0]),
        lambda: os.close(os.dup(2)),
    ],
    ids=["read a file", "list a folder", "open a socket", "open a pipe", "copy a descriptor"],
)
def test_a_confined_process_opens_nothing(action: Callable[[], object]) -> None:
    assert in_child(action) == FORBIDDEN


def test_a_confined_process_starts_no_other() -> None:
    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    assert in_child(fork) == FORBIDDEN


def test_a_confined_process_writes_no_file_it_already_holds(tmp_path: os.PathLike[str]) -> None:
    fd = os.open(os.path.join(tmp_path, "held"), os.O_WRONLY | os.O_CREAT)

    assert in_child(lambda: os.write(fd, b"x")) != 0
    assert os.fstat(fd).st_size == 0
    os.close(fd)


def test_a_confined_process_cannot_take_more_memory_than_its_limit() -> None:
    limits = Limits(memory_bytes=64 * 1024**2)

    assert in_child(lambda: len(bytearray(32 * 1024**2)), limits) == 0
    assert in_child(lambda: len(bytearray(96 * 1024**2)), limits) == FORBIDDEN


def test_a_confined_process_that_thinks_too_long_is_ended() -> None:
    def think() -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            pass

    assert in_child(think, Limits(cpu_s=1)) == -signal.SIGXCPU


def test_a_confined_process_cannot_raise_its_own_limits() -> None:
    limit = resource.RLIMIT_NOFILE

    assert in_child(lambda: resource.setrlimit(limit, (64, 64))) == FORBIDDEN


def test_a_confined_process_holds_no_privilege_and_gains_none() -> None:
    status = status_of_confined()

    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_a_confined_process_keeps_no_privilege_from_a_namespace_of_its_own() -> None:
    def become_ordinary_and_leave() -> None:
        if os.getuid() == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            # A worker that never was root may read what /proc says about itself.
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        leave_network()

    status = status_of_confined(become_ordinary_and_leave)

    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_confined_process_of_root_is_nobody() -> None:
    status = status_of_confined(lambda: os.setgroups([4, 24]))

    assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
    assert status["Groups"] == ""


def test_a_confined_process_leaves_no_core_of_what_it_decoded() -> None:
    def check() -> None:
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)

    assert in_child(check) == 0


def test_leaving_the_network_leaves_nothing_to_connect_to() -> None:
    def leave() -> None:
        if leave_network():
            assert not [name for _, name in socket.if_nameindex() if name != "lo"]

    assert in_child(leave, None) == 0
