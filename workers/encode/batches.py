"""The pictures of many tasks through one encoder: loaded side by side, encoded in batches.

While the device computes one batch, threads load and resize the next: unpacking a file happens in
processes of the sandbox, and resizing holds no lock. On a GPU two batches are on their way, so
that one is copied from pinned memory while the other is computed; on a CPU as many as there are
cores for, each computed by as few threads as this process gives a network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch

from workers import cores
from workers.encode.device import best_device
from workers.encode.encoder import Encoder, Pixels, Vectors, encode_batch

Load = Callable[[], Sequence[Pixels]]
"""Brings one task's pictures into memory: of one size or not, one at least."""

# More pictures in one batch make a CPU no faster, but those of a task that fails wait longer.
_PICTURES = {"cpu": 4, "cuda": 256}


def batch_size() -> int:
    """How many pictures this machine's device is given at once."""
    return _PICTURES[best_device().type]


def under_way_together() -> int:
    """How many pictures are being computed where there is enough to do."""
    return batch_size() * _lanes(best_device())


def _lanes(device: torch.device) -> int:
    """How many batches are on their way at once."""
    if device.type == "cuda":
        return 2
    return max(1, cores.there() // torch.get_num_threads())


def vectors_of(
    encoder: Encoder, loads: Iterable[Load], *, size: int | None = None
) -> Iterator[Vectors | Exception]:
    """Each load's vectors, (pictures, dimensions), in the order of `loads`; or what it failed of.

    A load that fails is no other's failure; a batch that fails is that of every load in it.
    """
    device = best_device()
    size = size or batch_size()
    loaders = cores.there()
    lanes = _streams(device, _lanes(device))
    running: deque[Future[list[Vectors | Exception]]] = deque()
    with ThreadPoolExecutor(loaders) as loading, ThreadPoolExecutor(len(lanes)) as computing:
        prepared = _prepared(encoder, loads, loading, ahead=max(2 * size, loaders))
        for number, group in enumerate(_groups(prepared, size)):
            lane = lanes[number % len(lanes)]
            running.append(computing.submit(_encoded, encoder, group, device, lane))
            if len(running) > len(lanes):
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


@cache
def _streams(device: torch.device, count: int) -> tuple[torch.Stream, ...]:
    """Made once in a process: what a stream freed of a GPU's memory waits for that stream alone."""
    return tuple(torch.get_device_module(device).Stream() for _ in range(count))


def _prepared(
    encoder: Encoder, loads: Iterable[Load], threads: ThreadPoolExecutor, *, ahead: int
) -> Iterator[torch.Tensor | Exception]:
    """What `preprocess` makes of each load, in order; at most `ahead` of them are in memory."""
    waiting: deque[Future[torch.Tensor | Exception]] = deque()
    for load in loads:
        waiting.append(threads.submit(_preprocessed, encoder, load))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _preprocessed(encoder: Encoder, load: Load) -> torch.Tensor | Exception:
    try:
        return encoder.preprocess(load())
    except Exception as error:  # noqa: BLE001 - handed to whoever asked for this one
        return error


def _groups(
    prepared: Iterable[torch.Tensor | Exception], size: int
) -> Iterator[list[torch.Tensor | Exception]]:
    """Split into runs of at least `size` pictures, the last one apart."""
    group: list[torch.Tensor | Exception] = []
    for each in prepared:
        group.append(each)
        if sum(len(part) for part in group if isinstance(part, torch.Tensor)) >= size:
            yield group
            group = []
    if group:
        yield group


def _encoded(
    encoder: Encoder,
    group: Sequence[torch.Tensor | Exception],
    device: torch.device,
    lane: torch.Stream,
) -> list[Vectors | Exception]:
    """One batch of all that was loaded, and its rows dealt out again."""
    loaded = [part for part in group if isinstance(part, torch.Tensor)]
    if not loaded:
        return [part for part in group if isinstance(part, Exception)]
    try:
        batch = torch.cat(loaded)
        if device.type == "cuda":
            batch = batch.pin_memory()
        with torch.get_device_module(device).stream(lane):
            rows = encode_batch(encoder, batch)
    except Exception as error:  # noqa: BLE001 - as above
        return [part if isinstance(part, Exception) else error for part in group]
    dealt, start = list[Vectors | Exception](), 0
    for part in group:
        if isinstance(part, Exception):
            dealt.append(part)
        else:
            dealt.append(rows[start : start + len(part)])
            start += len(part)
    return dealt
