"""What is written into a picture, text or code, and how it is covered."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Point = tuple[int, int]

_SOLID = (0, 0, 0)


@dataclass(frozen=True)
class Mark:
    """One piece of writing, never what it says.

    corners: x, y of its four corners in pixels of the upright image, in order around it; slanted
    writing has a slanted mark. They may lie beyond the picture's edges. score in [0, 1].
    """

    corners: tuple[Point, Point, Point, Point]
    score: float
    kind: Literal["text", "code"]
    detector: str

    @property
    def sides(self) -> tuple[float, float]:
        """Its longer and its shorter side in pixels."""
        _centre, (one, other), _angle = cv2.minAreaRect(np.array(self.corners, np.float32))
        return max(one, other), min(one, other)

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """x, y, w, h of the upright box around it, inside a picture of these pixels."""
        across, down = zip(*self.corners, strict=True)
        left, top = min(max(0, min(across)), width - 1), min(max(0, min(down)), height - 1)
        right, bottom = min(width - 1, max(across)), min(height - 1, max(down))
        return left, top, max(1, right - left + 1), max(1, bottom - top + 1)


def is_blank(pixels: Pixels) -> bool:
    """Whether (H, W, 3) pixels are all of one colour, so that nothing can be found in them.

    Files that unpack to many times their size mostly are, and looking costs by the pixel.
    """
    first = pixels[0, 0]
    return bool((pixels[0] == first).all() and (pixels == first).all())


def cover_marks(pixels: Pixels, marks: Iterable[Mark]) -> Pixels:
    """Return a copy of `pixels`, (H, W, 3) uint8 RGB, with every mark painted over in black."""
    covered = np.ascontiguousarray(pixels).copy()
    for mark in marks:
        cv2.fillConvexPoly(covered, np.array(mark.corners, np.int32), _SOLID)
    return covered


def as_stored(mark: Mark, height: int, width: int) -> dict[str, object]:
    """What is kept and reported of a mark in a picture of these pixels."""
    return {
        "box": list(mark.box(height, width)),
        "score": round(mark.score, 3),
        "kind": mark.kind,
        "detector": mark.detector,
    }


def without_inner(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """Drop marks that lie wholly inside another one: covering the outer covers them."""
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: -_area(mark)):
        if not any(_inside(mark, outer) for outer in kept):
            kept.append(mark)
    return tuple(kept)


def _area(mark: Mark) -> float:
    return float(cv2.contourArea(np.array(mark.corners, np.float32)))


def _inside(inner: Mark, outer: Mark) -> bool:
    polygon = np.array(outer.corners, np.float32)
    return all(
        cv2.pointPolygonTest(polygon, (float(x), float(y)), measureDist=False) >= 0
        for x, y in inner.corners
    )
