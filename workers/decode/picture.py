"""A picture that was recognised and measured, but not yet unpacked."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.errors import Reason, Rejected
from workers.decode.limits import Limits

Pixels = npt.NDArray[np.uint8]

# Photographs of more pixels are looked at, and leave, with half as many a side: what is looked for
# costs memory and time by the pixel, and no preview has as many.
WHOLE_PIXELS = 25_000_000


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


def reduced(pixels: Pixels, factor: int) -> Pixels:
    """Return (H, W, 3) uint8 pixels with `factor` times fewer a side, each the mean of a square.

    What does not fill a square at the right and at the bottom is left out.
    """
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    out = np.empty((height, width, 3), np.uint8)
    for top, bottom in strips(height, width):
        part = pixels[top * factor : bottom * factor, : width * factor]
        out[top:bottom] = np.asarray(Image.fromarray(np.ascontiguousarray(part)).reduce(factor))
    return out
