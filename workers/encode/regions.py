"""Which parts of a picture get vectors of their own, so that a small thing in it is found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from django.conf import settings

from retrieval.models.image import Region
from workers.deidentify.faces import boxes
from workers.deidentify.faces.added import AddedDetector, read_detectors
from workers.encode.encoder import Pixels, Vectors

SHARE = 0.6  # of both sides: neighbours overlap, so that what lies on a border is whole in one

LEAN = 0.25
"""The whole's share of a part's vector, before it is of unit length again. A part by itself is like
many queries by chance, and ordinary search lost by it (docs/benchmarks.md)."""

MOST_OBJECTS = 4
"""Each is a row: with the corners an image has nine at most."""
MIN_OBJECT_SIDE = 48  # pixels; less is a blur at the size that encoders look at
_ROOM = 0.1  # of an object's sides, left around it: what it stands on says what it is
_SAME = 0.5  # intersection over union from which two boxes are one object, or a corner, or all


def parts_of(pixels: Pixels, detectors: Sequence[AddedDetector], side: int) -> list[Region]:
    """Four overlapping corners, and the surest of what detectors see.

    pixels: (H, W, 3) de-identified. side: what the encoder reads along each side; a picture whose
    corners have fewer pixels has none, since the whole shows nearly all that they would.
    """
    height, width = pixels.shape[:2]
    corners = _corners(width, height, side)
    return corners + _objects(pixels, [Region(0, 0, width, height), *corners], detectors)


def cut(pixels: Pixels, part: Region) -> Pixels:
    return pixels[part.y : part.y + part.h, part.x : part.x + part.w]


def leaning(parts: Vectors, whole: Vectors) -> Vectors:
    """What is stored of parts: (N, dimensions), unit L2, each a little towards its whole.

    parts: (N, dimensions), unit L2. whole: (dimensions,), unit L2.
    """
    mixed = (1 - LEAN) * parts + LEAN * whole
    return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)


def in_image(part: Region, of: tuple[int, int], size: tuple[int, int]) -> Region:
    """Where a part of a preview lies in its image. of, size: the preview's and the image's width
    and height; a preview may be scaled down."""
    across, down = size[0] / of[0], size[1] / of[1]
    x, y = round(part.x * across), round(part.y * down)
    right, bottom = round((part.x + part.w) * across), round((part.y + part.h) * down)
    return Region(x, y, right - x, bottom - y)


def object_detectors() -> tuple[AddedDetector, ...]:
    """Those of the operator's list, loaded once a process. Raises ModelRefused."""
    return _listed(settings.CLOISTER_DETECTORS)


@lru_cache(maxsize=1)
def _listed(file: Path | None) -> tuple[AddedDetector, ...]:
    return read_detectors(file, finds="objects") if file else ()


def how_chosen(detectors: Sequence[AddedDetector]) -> str:
    """What is noted beside an image's vector: where it differs, the parts would be others."""
    seen_by = (f"{each.name}:{each.sha256[:12]}:{each.threshold:g}" for each in detectors)
    return " ".join(["corners", f"lean {LEAN:g}", *seen_by])


def _corners(width: int, height: int, side: int) -> list[Region]:
    w, h = round(SHARE * width), round(SHARE * height)
    if min(w, h) < side:
        return []
    return [Region(x, y, w, h) for y in (0, height - h) for x in (0, width - w)]


def _objects(
    pixels: Pixels, known: Sequence[Region], detectors: Sequence[AddedDetector]
) -> list[Region]:
    """The surest of what `detectors` see, as long as it is not nearly one of `known`."""
    height, width = pixels.shape[:2]
    seen = [each.look(pixels[None], each.threshold)[0] for each in detectors]
    rows = np.concatenate([boxes.NONE, *seen])
    room = _ROOM * (rows[:, [boxes.RIGHT, boxes.BOTTOM]] - rows[:, [boxes.LEFT, boxes.TOP]])
    rows[:, [boxes.LEFT, boxes.TOP]] -= room
    rows[:, [boxes.RIGHT, boxes.BOTTOM]] += room
    rows = boxes.clip(rows, width, height)
    for there in known:
        row = np.array([there.x, there.y, there.x + there.w, there.y + there.h, 1], np.float32)
        rows = rows[boxes.iou(row, rows) < _SAME]
    surest = rows[boxes.strongest(rows, same=_SAME)]
    found = (Region(*boxes.whole_pixels(row, width, height)) for row in surest)
    return [part for part in found if min(part.w, part.h) >= MIN_OBJECT_SIDE][:MOST_OBJECTS]
