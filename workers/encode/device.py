"""Where a model runs, and what running out of its memory means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from retrieval.errors import DeviceBusy
from workers import cores

SHARE = 1 / 4
"""Of the cores, for who answers queries while an import may hold them all."""


def best_device() -> torch.device:
    """Return the first CUDA device, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def share_cores() -> None:
    """Take this process's share of the machine's cores: one for who imports, as `workers.cores`.

    Threads that wait for one another while other workers hold their cores cost more than they
    bring: two on two busy cores took 6.2 s for a picture that one alone encodes in 0.4 s.
    """
    torch.set_num_threads(max(1, min(cores.threads(), int(cores.there() * SHARE))))


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
