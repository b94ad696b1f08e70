"""Take the file system away from a process, whatever its user may read (landlock(7))."""

import ctypes
import errno
import os

# The same numbers on every architecture.
_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_VERSION = 1
# By ABI version: the file system rights there are, of TCP (bind, connect), of scopes (abstract
# sockets, signals), as the kernel's linux/landlock.h adds them.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_ABI_WITH_NETWORK, _ABI_WITH_SCOPES = 4, 6
_BOTH = 0b11

_libc = ctypes.CDLL(None, use_errno=True)


def leave_files() -> bool:
    """Refuse this process every file, folder and TCP port for good; False where there is no
    Landlock.

    The process must hold no_new_privs. Raises OSError if the kernel has Landlock and it does not
    hold all the same.
    """
    abi = _libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if abi < 1:
        return False
    handled = (ctypes.c_uint64 * 3)(
        (1 << _FILE_RIGHTS.get(abi, 16)) - 1,
        _BOTH if abi >= _ABI_WITH_NETWORK else 0,
        _BOTH if abi >= _ABI_WITH_SCOPES else 0,
    )
    # An older kernel refuses a structure with fields it does not know.
    size = 8 * (1 + (abi >= _ABI_WITH_NETWORK) + (abi >= _ABI_WITH_SCOPES))
    ruleset = _libc.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    # No rule is added: what is handled is refused everywhere.
    restricted = _libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    if restricted != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    _expect_refusal()
    return True


def _expect_refusal() -> None:
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        return
    raise OSError(errno.EPERM, "landlock does not hold")
