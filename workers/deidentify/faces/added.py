"""Detectors an operator adds: ONNX files of known families, named with their digests in a file.

The file is TOML, and `CLOISTER_DETECTORS` says where it lies:

    [[detector]]
    name = "yunet"
    file = "face_detection_yunet_2023mar.onnx"     # beside this file, or an absolute path
    sha256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
    kind = "yunet"                                 # or "retinaface", "yolox"
    licence = "MIT"
    threshold = 0.6                                # lowest score that counts as a face
    finds = "faces"                                # or "objects"; faces where it is left out

They join the detectors that are always there; none of those can be taken away. Of a YOLOX the first
class counts, whatever it is: with COCO's classes a person, who is then covered as a whole. One that
finds objects covers nothing: of all its classes, what it finds in the covered picture is a part of
it with a vector of its own (workers/encode/regions.py).
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.errors import ModelRefused
from workers.deidentify.faces import boxes
from workers.deidentify.faces.boxes import Boxes
from workers.deidentify.faces.face import Pixels
from workers.deidentify.faces.network import read_weights, session

Array = npt.NDArray[np.float32]

Finds = Literal["faces", "objects"]
"""What becomes of a detector's boxes: faces are covered, objects are parts that can be found."""

_KEYS = {"name", "file", "sha256", "kind", "licence", "threshold"}
_SHA256_DIGITS = 64


class AddedDetector:
    """One network of an operator's. Not tied to a thread: may be shared.

    threshold: lowest score in (0, 1) that counts. Raises ModelRefused for other weights than those
    of the digest, another family, or outputs that family does not have.
    """

    def __init__(
        self,
        *,
        name: str,
        file: Path,
        sha256: str,
        kind: str,
        licence: str,
        threshold: float,
        finds: Finds = "faces",
    ) -> None:
        families = _FAMILIES[finds]
        if kind not in families:
            raise ModelRefused(f"detector {name}: kind must be one of {', '.join(families)}")
        if not licence.strip():
            raise ModelRefused(f"detector {name} states no licence")
        if not 0 < threshold < 1:
            raise ModelRefused(f"detector {name}: threshold must be between 0 and 1")
        self.name, self.licence, self.threshold = name, licence, threshold
        self.sha256 = sha256.lower()
        self._prepare, self._decode = families[kind]
        self._session = session(read_weights(file, sha256, name), name)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:  # noqa: PLR2004 - N, C, H, W
            raise ModelRefused(f"detector {name} does not take one batch of pictures")
        self._input, shape = inputs[0].name, inputs[0].shape
        # A network of one size gets every view made to fit; one of any size gets this one.
        self._height, self._width = (d if isinstance(d, int) and d > 0 else 640 for d in shape[2:])
        self._try()

    def look(self, batch: Pixels, threshold: float) -> list[Boxes]:
        """batch: (N, H, W, 3) uint8 RGB. Returns boxes in pixels of each view."""
        return [self._look(view, threshold) for view in batch]

    def _look(self, view: Pixels, threshold: float) -> Boxes:
        height, width = view.shape[:2]
        scale = min(self._width / width, self._height / height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        canvas = np.zeros((self._height, self._width, 3), np.uint8)
        small = Image.fromarray(view).resize(size, Image.Resampling.BILINEAR)
        canvas[: size[1], : size[0]] = np.asarray(small)
        rows = self._rows(canvas)
        rows = boxes.clip(rows[rows[:, boxes.SCORE] > threshold], *size)
        rows[:, [boxes.LEFT, boxes.RIGHT]] *= width / size[0]
        rows[:, [boxes.TOP, boxes.BOTTOM]] *= height / size[1]
        return rows

    def _rows(self, canvas: Pixels) -> Boxes:
        outputs = self._session.run(None, {self._input: self._prepare(canvas)})
        names = (output.name for output in self._session.get_outputs())
        return self._decode(dict(zip(names, outputs, strict=True)), self._height, self._width)

    def _try(self) -> None:
        """Look at nothing once: a network of another family shows now, not at the first picture."""
        try:
            rows = self._rows(np.zeros((self._height, self._width, 3), np.uint8))
        except Exception as error:  # a foreign network may fail in any way
            raise ModelRefused(f"detector {self.name} does not answer as its kind does") from error
        if not np.isfinite(rows).all():
            raise ModelRefused(f"detector {self.name} does not answer as its kind does")


def read_detectors(file: Path, *, finds: Finds = "faces") -> tuple[AddedDetector, ...]:
    """Load the detectors of that sort that `file` names. Raises ModelRefused if one of them cannot
    be used, or if anything in the list is not as it should be."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelRefused("the list of detectors cannot be read") from error
    entries = content.get("detector")
    if set(content) != {"detector"} or not isinstance(entries, list) or not entries:
        raise ModelRefused("the list of detectors holds [[detector]] entries and nothing else")
    names = [entry.get("name") for entry in entries]
    if len(set(map(str, names))) != len(names):
        raise ModelRefused("two detectors have one name")
    sorts = [entry.get("finds", "faces") for entry in entries]
    if not all(sort in get_args(Finds) for sort in sorts):
        raise ModelRefused(f"a detector finds one of {', '.join(get_args(Finds))}")
    for entry in entries:
        _check(entry)
    of_sort = (entry for entry, sort in zip(entries, sorts, strict=True) if sort == finds)
    return tuple(_detector(entry, file.parent, finds) for entry in of_sort)


def _check(entry: dict[str, Any]) -> None:
    if set(entry) - {"finds"} != _KEYS:
        raise ModelRefused(f"a detector has the keys {', '.join(sorted(_KEYS))}, all of them")
    texts = {key: entry[key] for key in _KEYS - {"threshold"}}
    if not all(isinstance(text, str) and text for text in texts.values()):
        raise ModelRefused("a detector's name, file, sha256, kind and licence are words")
    if not isinstance(entry["threshold"], int | float) or len(texts["sha256"]) != _SHA256_DIGITS:
        raise ModelRefused("a detector's threshold is a number, its sha256 has 64 digits")


def _detector(entry: dict[str, Any], folder: Path, finds: Finds) -> AddedDetector:
    return AddedDetector(
        name=entry["name"],
        file=folder / entry["file"],
        sha256=entry["sha256"],
        kind=entry["kind"],
        licence=entry["licence"],
        threshold=float(entry["threshold"]),
        finds=finds,
    )


def _bgr(canvas: Pixels) -> Array:
    return np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)


def _bgr_less_mean(canvas: Pixels) -> Array:
    """RetinaFace's ports to other frameworks take off ImageNet's mean as Caffe has it."""
    return np.asarray(_bgr(canvas) - np.array([104, 117, 123], np.float32)[:, None, None])


def _yunet(outputs: dict[str, Array], height: int, width: int) -> Boxes:
    """YuNet (Wu et al. 2023, 10.1007/s11633-023-1423-y): one answer a cell at three strides."""
    found = []
    for stride in (8, 16, 32):
        cells = _cells(height, width, stride)
        kind, seen = outputs[f"cls_{stride}"][0, :, 0], outputs[f"obj_{stride}"][0, :, 0]
        scores = np.sqrt(kind.clip(0, 1) * seen.clip(0, 1))
        edges = outputs[f"bbox_{stride}"][0]
        middle, half = (cells + edges[:, :2]) * stride, np.exp(edges[:, 2:]) * stride / 2
        found.append(np.column_stack([middle - half, middle + half, scores]))
    return np.concatenate(found).astype(np.float32)


def _retinaface(outputs: dict[str, Array], height: int, width: int) -> Boxes:
    """RetinaFace (Deng et al. 2020, arXiv 1905.00641): two anchors a cell, variances 0.1, 0.2."""
    ordered = list(outputs.values())
    moves, scores = ordered[0][0], ordered[1][0, :, 1]
    anchors = []
    for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        middle = (_cells(height, width, stride) + 0.5) * stride
        anchors.append(
            np.stack([np.column_stack([middle, np.full(len(middle), s)]) for s in sides], axis=1)
        )
    flat = np.concatenate([anchor.reshape(-1, 3) for anchor in anchors])
    middle, side = flat[:, :2], flat[:, 2:]
    middle = middle + moves[:, :2] * 0.1 * side
    half = np.exp(moves[:, 2:] * 0.2) * side / 2
    return np.column_stack([middle - half, middle + half, scores]).astype(np.float32)


def _yolox_first(outputs: dict[str, Array], height: int, width: int) -> Boxes:
    """Of a YOLOX only what is of its first class."""
    return _yolox({name: rows[:, :, :6] for name, rows in outputs.items()}, height, width)


def _yolox(outputs: dict[str, Array], height: int, width: int) -> Boxes:
    """YOLOX (Ge et al. 2021, arXiv 2107.08430): one answer a cell at three strides.

    A row is the middle's place from its cell's corner and the logarithm of width and height, all
    in strides; how sure it is of anything there; how sure of each class. The likeliest counts.
    """
    (answers,) = outputs.values()
    grids = [(_cells(height, width, stride), stride) for stride in (8, 16, 32)]
    cells = np.concatenate([grid for grid, _ in grids])
    strides = np.concatenate([np.full((len(grid), 1), stride) for grid, stride in grids])
    rows = answers[0]
    middle, half = (cells + rows[:, :2]) * strides, np.exp(rows[:, 2:4]) * strides / 2
    scores = rows[:, 4] * rows[:, 5:].max(axis=1)
    return np.column_stack([middle - half, middle + half, scores]).astype(np.float32)


def _cells(height: int, width: int, stride: int) -> Array:
    """(n, 2) float32: column and row of every cell, row by row."""
    rows, columns = np.mgrid[: -(-height // stride), : -(-width // stride)]
    return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)


_Family = tuple[Callable[[Pixels], Array], Callable[[dict[str, Array], int, int], Boxes]]
_FAMILIES: dict[Finds, dict[str, _Family]] = {
    "faces": {
        "yunet": (_bgr, _yunet),
        "retinaface": (_bgr_less_mean, _retinaface),
        "yolox": (_bgr, _yolox_first),
    },
    # What the others find is a face, and covered.
    "objects": {"yolox": (_bgr, _yolox)},
}
