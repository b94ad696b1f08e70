"""How fast one stage of an import is where a process on each core does nothing else.

Nothing here imports a model of Django's: the measuring processes import this before they set it up.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Barrier
from typing import Any, Final, Literal

import django
import torch

Stage = Literal["decode", "de-identify", "encode"]
STAGES: Final[tuple[Stage, ...]] = ("decode", "de-identify", "encode")
ALONE: Final = 32
"""So many pictures tell the rate of one process."""


def images_per_s(pictures: Sequence[Path]) -> dict[str, float]:
    """Each stage's rate, by one process on each core that does this and nothing else."""
    cores = len(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    shares = [[str(p) for p in islice(pictures, at, ALONE * cores, cores)] for at in range(cores)]
    shares = [share for share in shares if share]
    with ProcessPoolExecutor(
        len(shares), spawn, initializer=_begin, initargs=(spawn.Barrier(len(shares)),)
    ) as pool:
        return {
            stage: sum(
                len(share) / seconds
                for share, seconds in zip(
                    shares, pool.map(_measure, [stage] * len(shares), shares), strict=True
                )
            )
            for stage in STAGES
        }


_all_ready: Barrier


def _begin(barrier: Barrier) -> None:
    global _all_ready  # noqa: PLW0603  the pool's way to hand over what is no argument
    _all_ready = barrier
    django.setup()
    torch.set_num_threads(1)


def _measure(stage: Stage, paths: Sequence[str]) -> float:
    """Seconds for these pictures, begun with the other processes when all is loaded."""
    try:
        do, inputs = _work(stage, [Path(path).read_bytes() for path in paths])
        do(inputs[:1])
    except Exception:
        _all_ready.abort()  # the others would wait for ever
        raise
    # Each process takes one share: it waits here until the others have taken theirs.
    _all_ready.wait()
    started = time.perf_counter()
    do(inputs)
    return time.perf_counter() - started


def _work(stage: Stage, files: list[bytes]) -> tuple[Callable[[list[Any]], object], list[Any]]:
    # Imported here: after Django.
    from workers.decode.sandbox import decode  # noqa: PLC0415
    from workers.deidentify import derivative  # noqa: PLC0415
    from workers.deidentify.verdict import PROFILES, deidentify, detectors_for  # noqa: PLC0415
    from workers.encode.encoder import encode_all  # noqa: PLC0415
    from workers.encode.registry import EMBEDDED, load  # noqa: PLC0415
    from workers.perceptual_hash import perceptual_hash  # noqa: PLC0415

    if stage == "decode":
        return lambda contents: [decode(each) for each in contents], files
    decoded = [decode(each) for each in files]
    if stage == "encode":
        encoder = load(EMBEDDED)
        return lambda pixels: encode_all(encoder, pixels), [each.pixels for each in decoded]
    rules = PROFILES["photographs"]

    def cover(pictures: list[Any]) -> None:
        for each in pictures:
            covered = deidentify(each, rules, detectors_for(rules)).pixels
            derivative.encode_preview(covered)
            derivative.encode_thumbnail(covered)
            perceptual_hash(covered)

    return cover, decoded
