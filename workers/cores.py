"""How many of the machine's cores one process takes: all, or one where its like runs on each.

Networks that are given all cores answer soonest where nothing else runs. Where workers hold every
core already, threads that wait for one another cost more than they bring.
"""

import os

import cv2

_taken: int | None = None


def there() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def take_one() -> None:
    """For a worker that runs beside others on each core, before it loads its networks."""
    global _taken  # noqa: PLW0603 - one per process, like the process itself
    _taken = 1
    cv2.setNumThreads(1)


def threads() -> int:
    """How many threads one network has in this process."""
    return _taken or there()
