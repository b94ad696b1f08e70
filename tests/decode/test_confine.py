"""A confined process can use the memory it was given, and nothing else."""

import ctypes
import errno
import mmap
import os
import platform
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from workers.decode.confine import NOBODY, confine, leave_network
from workers.decode.limits import Limits

FORBIDDEN = 2
PR_SET_DUMPABLE = 4
STDOUT = 1
HELD = 99
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


def call(name: str, *arguments: int | bytes | None) -> None:
    """A function of the C library that Python has no name for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def told_to_confined(path: str, prepare: Callable[[], object] = lambda: None) -> str:
    """What the kernel says in a file of /proc about a confined process, after `prepare`."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            # Opened before, because a confined process opens nothing; and it writes to a standard
            # descriptor, because it may write to no other.
            held = os.open(path, os.O_RDONLY)
            os.dup2(write, STDOUT)
            confine(Limits())
            os.write(STDOUT, os.read(held, 65536))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="ascii") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def status_of_confined(prepare: Callable[[], object] = lambda: None) -> dict[str, str]:
    """A confined process's /proc/self/status (proc(5)), after `prepare`."""
    lines = told_to_confined("/proc/self/status", prepare).splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


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


NEEDLESS: dict[str, Callable[[], object]] = {
    "read a file": lambda: os.close(os.open("/proc/self/status", os.O_RDONLY)),
    "write a file": lambda: os.close(os.open("/tmp/new", os.O_WRONLY | os.O_CREAT)),
    "make a folder": lambda: os.mkdir("/tmp/new"),
    "delete": lambda: os.unlink("/nonexistent"),
    "open a socket": lambda: socket.socket().close(),
    "run a program": lambda: os.execv("/nonexistent", ["nonexistent"]),  # noqa: S606
    "fork": os.fork,
    "signal": lambda: os.kill(os.getpid(), 0),
    "trace": lambda: call("ptrace", 0, 0, 0, 0),
    "mount": lambda: call("mount", b"none", b"/", b"tmpfs", 0, None),
    "make a namespace": lambda: call("unshare", 0x10000000),
    "load a program into the kernel": lambda: call("syscall", 321, 0, None, 0),
    "map code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "write what it holds": lambda: os.write(HELD, b"x"),
}


@pytest.mark.parametrize("action", NEEDLESS.values(), ids=NEEDLESS)
def test_the_kernel_filters_what_decoding_does_not_need(action: Callable[[], object]) -> None:
    """Not by limits and rights, whose answers are others: EMFILE, ENOENT, EAGAIN, EACCES."""

    def act() -> None:
        try:
            action()
        except OSError as exc:
            os._exit(exc.errno or 0)

    os.dup2(2, HELD)
    # FORBIDDEN means it was done, or failed in some other way.
    assert in_child(act) == errno.EPERM


def test_a_confined_process_may_share_its_work_among_threads() -> None:
    def share() -> None:
        done: list[int] = []
        threads = [threading.Thread(target=done.append, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == [0, 1, 2, 3]

    assert in_child(share) == 0


def test_a_call_by_another_architectures_number_ends_the_process() -> None:
    if platform.machine() != "x86_64":
        pytest.skip("only x86-64 has a second numbering")

    assert in_child(lambda: call("syscall", 0x40000000 + 39)) == -signal.SIGSYS


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

    assert in_child(lambda: mmap.mmap(-1, 32 * 1024**2), limits) == 0
    assert in_child(lambda: mmap.mmap(-1, 96 * 1024**2), limits) == FORBIDDEN


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
    assert status["Seccomp"] == "2"


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
    lines = told_to_confined("/proc/self/limits").splitlines()

    assert [line.split()[4:6] for line in lines if "core file" in line] == [["0", "0"]]


def test_leaving_the_network_leaves_nothing_to_connect_to() -> None:
    def leave() -> None:
        if leave_network():
            assert not [name for _, name in socket.if_nameindex() if name != "lo"]

    assert in_child(leave, None) == 0
