"""Refuse, in the kernel, every system call that decoding does not make (seccomp(2), filter mode).

An allow-list: what a later kernel adds is refused too. A refused call fails with EPERM, so that a
codec that would like a configuration file goes on without; a call in the numbering of another
architecture ends the process.
"""

import ctypes
import errno
import os
import platform

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_KILL_PROCESS = 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_UNKNOWN = 0x00050000 | errno.ENOSYS
_ALLOW = 0x7FFF0000

# Opcodes of classic BPF, and where struct seccomp_data holds what (both architectures are
# little-endian: the low half of an argument comes first).
_LOAD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_GREATER = 0x25
_JUMP_AT_LEAST = 0x35
_JUMP_BITS = 0x45
_RETURN = 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_PROT_EXEC = 4
# What the C library starts a thread with, and nothing else: CLONE_VM, FS, FILES, SIGHAND, THREAD,
# SYSVSEM, SETTLS, PARENT_SETTID and CHILD_CLEARTID.
_NEW_THREAD = 0x3D0F00
# x86-64 knows a second numbering, x32, above this bit.
_X32 = 0x40000000


# The name by which the kernel knows a machine (AUDIT_ARCH_*), and its column below.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_ALLOWED = {
    "read": (0, 63),
    "close": (3, 57),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "readv": (19, 65),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "brk": (12, 214),
    "madvise": (28, 233),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "futex": (202, 98),
    "rseq": (334, 293),
    "set_robust_list": (273, 99),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Decided by the argument of this index: refused if it passes the test, or (clone) allowed if it
# does. No memory that can be run, no writing but to the standard descriptors, threads (libde265
# has no way without) but no processes.
_ASKED = {
    "mmap": ((9, 222), 2, (_JUMP_BITS, _PROT_EXEC), False),
    "mprotect": ((10, 226), 2, (_JUMP_BITS, _PROT_EXEC), False),
    "write": ((1, 64), 0, (_JUMP_GREATER, 2), False),
    "clone": ((56, 220), 0, (_JUMP_EQUAL, _NEW_THREAD), True),
}
# Its flags lie in memory, where no filter can look: the C library falls back to clone.
_CLONE3 = 435


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


_libc = ctypes.CDLL(None, use_errno=True)


def refuse_all_but_decoding() -> None:
    """Filter this process's system calls for good; it must hold no_new_privs.

    Memory may be mapped, but none that is executable; only the standard descriptors, which lead
    to /dev/null, may be written to. Raises OSError where the kernel or the machine has no filter.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, "no system call filter for this machine")
    program = _program(*machine)
    instructions = (_Instruction * len(program))(*program)
    filtered = _libc.prctl(
        _PR_SET_SECCOMP,
        ctypes.c_ulong(_SECCOMP_MODE_FILTER),
        ctypes.byref(_Program(len(program), instructions)),
        0,
        0,
    )
    if filtered != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _program(audit_name: int, column: int) -> list[_Instruction]:
    """Return the filter for one machine: allowed calls fall out of it early, all others last."""
    allow, refuse = _Instruction(_RETURN, 0, 0, _ALLOW), _Instruction(_RETURN, 0, 0, _REFUSE)
    kill = _Instruction(_RETURN, 0, 0, _KILL_PROCESS)
    program = [
        _Instruction(_LOAD, 0, 0, _ARCHITECTURE),
        _Instruction(_JUMP_EQUAL, 1, 0, audit_name),
        kill,
        _Instruction(_LOAD, 0, 0, _NUMBER),
        _Instruction(_JUMP_AT_LEAST, 0, 1, _X32),
        kill,
    ]
    for numbers in _ALLOWED.values():
        program += [_Instruction(_JUMP_EQUAL, 0, 1, numbers[column]), allow]
    for numbers, argument, (test, operand), is_allowed in _ASKED.values():
        program += [
            _Instruction(_JUMP_EQUAL, 0, 4, numbers[column]),
            _Instruction(_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
            _Instruction(test, 0, 1, operand),
            *((allow, refuse) if is_allowed else (refuse, allow)),
        ]
    unknown = _Instruction(_RETURN, 0, 0, _UNKNOWN)
    return [*program, _Instruction(_JUMP_EQUAL, 0, 1, _CLONE3), unknown, refuse]
