"""Where a model runs, and what running out of its memory means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from retrieval.errors import DeviceBusy

BUSY_PROCESSES = 4
"""Of one machine while it imports: two de-identify, one encodes, one answers queries."""


def best_device() -> torch.device:
    """Return the first CUDA device, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def share_cores() -> None:
    """Take this process's share of the machine's cores, one at least.

    Threads that wait for one another while other workers hold their cores cost more than they
    bring: two on two busy cores took 6.2 s for a picture that one alone encodes in 0.4 s.
    """
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // BUSY_PROCESSES))


@contextmanager
def busy_when_out_of_memory() -> Iterator[None]:
    """Turn an allocation failure into DeviceBusy; every other error passes through."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise DeviceBusy("the batch does not fit the device") from exc
    except RuntimeError as exc:
        # The CPU allocator has no error class of its own.
        if "can't allocate memory" not in str(exc):
            raise
        raise DeviceBusy("the batch does not fit in memory") from exc
