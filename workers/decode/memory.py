"""Map a memory file without a second descriptor.

Python's own mmap duplicates the descriptor, which a process that may open nothing cannot.
"""

import ctypes
import errno
import mmap
import os

from numpy.ctypeslib import as_array

from workers.decode.picture import Pixels

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_MAP_FAILED = ctypes.c_void_p(-1).value


def map_shared(fd: int, size: int) -> Pixels:
    """Return the first `size` bytes behind `fd` as a writable (size,) array, mapped for good.

    Raises MemoryError if the address space is used up, OSError otherwise.
    """
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address is None or address == _MAP_FAILED:
        if ctypes.get_errno() == errno.ENOMEM:
            raise MemoryError
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return as_array((ctypes.c_uint8 * size).from_address(address))
