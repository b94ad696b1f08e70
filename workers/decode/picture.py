"""A picture that was recognised and measured, but not yet unpacked."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.errors import Reason, Rejected
from workers.decode.limits import Limits

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One readable picture.

    height, width: pixels, upright. frames: how many the file holds; only the first is shown.
    paint: fills an (height, width, 3) uint8 array with upright RGB.
    """

    height: int
    width: int
    frames: int
    media_type: str
    paint: Callable[[Pixels], None]
    modality: str | None = None
    burned_in: bool | None = None
    copied_screen: bool = False


def check_size(height: int, width: int, frames: int, limits: Limits) -> None:
    """Raise Rejected unless a file of these sizes, as its header claims them, may be unpacked."""
    if min(height, width) < limits.min_side:
        raise Rejected(Reason.TOO_SMALL)
    is_large = height * width > limits.max_pixels or max(height, width) > limits.max_side
    if is_large or frames > limits.max_frames:
        raise Rejected(Reason.TOO_MANY_PIXELS)


def strips(height: int, width: int, max_pixels: int = 1 << 20) -> list[tuple[int, int]]:
    """Return row ranges (first, past the last) of at most about `max_pixels` each.

    Working strip by strip keeps the second copy of a large picture out of the memory limit.
    """
    step = max(1, max_pixels // width)
    return [(top, min(top + step, height)) for top in range(0, height, step)]
