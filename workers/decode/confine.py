"""Take away from a process everything that decoding does not need. Linux only."""

import ctypes
import os
import resource
import signal
import sys

from workers.decode.landlock import leave_files
from workers.decode.limits import Limits
from workers.decode.syscalls import refuse_all_but_decoding

NOBODY = 65534

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNET = 0x40000000
_CLONE_NEWUSER = 0x10000000
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def leave_network() -> bool:
    """Move this process and its children into an empty network; False where that is forbidden."""
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return True
    return bool(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def confine(limits: Limits) -> bool:
    """Confine the calling process for good; it must be single-threaded and hold what it needs.

    Afterwards it cannot open a file or a socket, start a process, signal anybody, gain a
    privilege, be traced by a neighbour, or use more than `limits` of memory and processor; all
    it can still ask of the kernel is in `syscalls`. Returns whether Landlock closed the file
    system as well. Raises OSError if anything else cannot be had: the caller must not go on.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # If memory runs out all the same, the kernel shall choose this process and not the worker.
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    with open("/proc/self/statm", encoding="ascii") as file:
        own_bytes = int(file.read().split()[0]) * resource.getpagesize()
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # Changing the user clears the death signal.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _drop_capabilities()
    _prctl(_PR_SET_DUMPABLE, 0)
    has_landlock = leave_files()
    memory = own_bytes + limits.memory_bytes
    for what, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
        # Nothing can be opened from here on, neither files nor sockets nor pipes.
        (resource.RLIMIT_NOFILE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))
    # Last: it refuses all of the above.
    refuse_all_but_decoding()
    return has_landlock


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _drop_capabilities() -> None:
    """Give up every capability, including those held inside a user namespace of our own."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if sys.platform != "linux":
    raise ImportError("the decoder's sandbox needs Linux")
