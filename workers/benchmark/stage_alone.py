"""How fast one stage of an import is where nothing else runs, with the processes, threads and
functions that do it in an import.

Nothing here imports a model of Django's: the measuring processes import this before they set it up.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any, Final, Literal

import django

from workers import cores
from workers.benchmark.processor_time import seconds_by_program, since

Stage = Literal["decode", "de-identify", "encode"]
STAGES: Final[tuple[Stage, ...]] = ("decode", "de-identify", "encode")
A_CORE: Final = 32
"""So many pictures for each core tell its rate."""


@dataclass(frozen=True)
class Rate:
    """images_per_s: of all processes together. processor_s: of one image, on any core."""

    images_per_s: float
    processor_s: float


def rates(pictures: Sequence[Path]) -> dict[str, Rate]:
    """Each stage's rate: a process on each core de-identifies and decodes, one for all encodes."""
    every = max(1, len(pictures) // (A_CORE * cores.there()))
    some = [str(path) for path in pictures[::every][: A_CORE * cores.there()]]
    return {
        stage: _rate(stage, some, 1 if stage == "encode" else min(cores.there(), len(some)))
        for stage in STAGES
    }


def _rate(stage: Stage, pictures: Sequence[str], processes: int) -> Rate:
    spawn = multiprocessing.get_context("spawn")
    shares = [pictures[at::processes] for at in range(processes)]
    with ProcessPoolExecutor(
        processes, spawn, initializer=_begin, initargs=(spawn.Barrier(processes),)
    ) as pool:
        measured = list(pool.map(_measure, [stage] * processes, shares))
    return Rate(
        sum(len(share) / wall_s for share, (wall_s, _) in zip(shares, measured, strict=True)),
        sum(processor_s for _, processor_s in measured) / len(pictures),
    )


_all_ready: Barrier


def _begin(barrier: Barrier) -> None:
    global _all_ready  # noqa: PLW0603  the pool's way to hand over what is no argument
    _all_ready = barrier
    cores.take_one()
    django.setup()


def _measure(stage: Stage, paths: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds for these pictures, begun with the other processes when all is
    loaded."""
    try:
        do, inputs = _work(stage, [Path(path).read_bytes() for path in paths])
        do(inputs[:1])
    except Exception:
        _all_ready.abort()  # the others would wait for ever
        raise
    # Each process takes one share: it waits here until the others have taken theirs.
    _all_ready.wait()
    started, before = time.perf_counter(), seconds_by_program()
    do(inputs)
    return time.perf_counter() - started, sum(since(before).values())


def _work(stage: Stage, files: list[bytes]) -> tuple[Callable[[list[Any]], object], list[Any]]:
    # Imported here: after Django.
    from workers.decode.sandbox import decode  # noqa: PLC0415
    from workers.deidentify import derivative  # noqa: PLC0415
    from workers.deidentify.verdict import PROFILES, deidentify, detectors_for  # noqa: PLC0415
    from workers.encode.batches import vectors_of  # noqa: PLC0415
    from workers.encode.device import share_cores  # noqa: PLC0415
    from workers.encode.registry import EMBEDDED, load  # noqa: PLC0415
    from workers.perceptual_hash import perceptual_hash  # noqa: PLC0415

    if stage == "decode":
        return lambda contents: [decode(each) for each in contents], files
    decoded = [decode(each) for each in files]
    if stage == "encode":
        share_cores()
        encoder = load(EMBEDDED)

        def encode(pictures: list[Any]) -> None:
            for found in vectors_of(encoder, [partial(list, [each]) for each in pictures]):
                if isinstance(found, Exception):
                    raise found

        return encode, [each.pixels for each in decoded]
    rules = PROFILES["photographs"]

    def cover(pictures: list[Any]) -> None:
        for each in pictures:
            covered = deidentify(each, rules, detectors_for(rules)).pixels
            derivative.encode_preview(covered)
            derivative.encode_thumbnail(covered)
            perceptual_hash(covered)

    return cover, decoded
