"""Whether a frame of a video shows something that the frames looked at around it do not."""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from workers.deidentify.faces import Pixels

Cells = npt.NDArray[np.int16]

# Side of a cell in pixels: a face that is smaller is found by no detector either.
_CELL_PX = 12
# Grey levels by which a cell's mean differs where something came; a codec's noise stays below 4.
_CAME_LEVELS = 16


def cells_of(pixels: Pixels) -> Cells:
    """pixels: (H, W, 3) uint8 RGB. Returns the mean colour of each cell, (rows, columns, 3)."""
    height, width = pixels.shape[:2]
    size = (max(1, round(width / _CELL_PX)), max(1, round(height / _CELL_PX)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.int16)


def shows_more(frame: Cells, looked_at: Iterable[Cells]) -> bool:
    """Whether some cell of a frame is like that cell in none of those that were looked at."""
    nearest = [np.abs(frame - other).max(axis=2) for other in looked_at]
    return bool((np.min(nearest, axis=0) >= _CAME_LEVELS).any())
