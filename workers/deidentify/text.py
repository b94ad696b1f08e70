"""Find writing in pixels and read it. A box that is not read is covered all the same.

The two networks are PP-OCRv6's (PaddlePaddle, Apache-2.0) as the `rapidocr` wheel carries them.
They are run here rather than by that package, which scales a picture to its own liking, cuts it
at 2,000 pixels and downloads what it does not find.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from retrieval.errors import ModelRefused
from workers.deidentify.marks import Mark, Pixels, is_blank, without_inner

Values = npt.NDArray[np.float32]

_DETECTOR = "PP-OCRv6_det_small.onnx"
_DETECTOR_DIGEST = "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
_READER = "PP-OCRv6_rec_small.onnx"
_READER_DIGEST = "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"

# The detector halves its input five times.
_MULTIPLE = 32
# Tiles are this many pixels of a view a side, and share this many with the next one.
_TILE = 1280
_SHARED = 160
# Lines of writing are scaled to this height to be read.
_READ_HEIGHT = 48
_MAX_READ_WIDTH = 48 * 40


@dataclass(frozen=True)
class View:
    """One way to look at a picture: treated, scaled, and turned by quarters to the left."""

    treatment: Literal["raw", "stretched", "inverted"]
    scale: float
    turns: int = 0


# Measured over anatomy (docs/benchmarks.md): the enlarged one finds faint writing, the turned one
# what stands upright. Both are grey: the first one sees writing that differs in colour alone.
VIEWS = (
    View("raw", 1.0),
    View("stretched", 2.0),
    View("stretched", 1.0, 1),
)
# The second look is another one than the first: what one scale misses another may see.
VIEWS_AFTER = (View("raw", 1.5),)
# Pictures larger than a tile are seen whole as well, for letters larger than a tile.
_OVERVIEW_SIDE = 640
# Share of a line's height that is added to both its ends.
_ENDS = 0.5
# Heat of fewer pixels is noise.
_MIN_SHRUNK_PX = 2
# A skull is an O to the detector, and a lung a B. What takes so much of a view both ways, and at
# least so many pixels, and is no longer than so many times its height is no writing, unless so much
# of it is read so surely.
_BODY_SHARE = 1 / 8
_BODY_MIN_PX = 96
_BODY_LENGTH = 2.5
_BODY_LETTERS = 3
_BODY_SCORE = 0.7


@dataclass(frozen=True)
class Reading:
    """What a mark seems to say. Lives in memory only: it is never stored, logged or reported."""

    words: str
    score: float


class TextDetector(Protocol):
    """Anything that finds writing in pixels and reads it."""

    def find(self, pixels: Pixels) -> tuple[Mark, ...]:
        """pixels: (H, W, 3) uint8 RGB. Returns every piece of writing, readable or not."""
        ...

    def find_again(self, pixels: Pixels) -> tuple[Mark, ...]:
        """The same for pixels in which the first look's findings are covered."""
        ...

    def read(self, pixels: Pixels, mark: Mark) -> Reading:
        """Read one piece of writing; an unreadable one reads as no words."""
        ...


class RapidText:
    """PP-OCRv6 small: a DB detector (Liao et al. 2020, arXiv 1911.08947) and a CTC reader.

    Not tied to a thread: may be shared. Raises ModelRefused if the weights are missing or not
    those we tested.
    """

    name = "ppocr-v6"

    # DB's own defaults, 0.3, 0.6 and 1.5, are set for reading: here a box too many costs less
    # than a word too few.
    _HEAT = 0.2
    _SCORE = 0.35
    _UNCLIP = 2.0

    def __init__(self, *, threads: int = 1) -> None:
        self._detector = _session(_DETECTOR, _DETECTOR_DIGEST, threads)
        self._reader = _session(_READER, _READER_DIGEST, threads)
        letters = self._reader.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._letters = ["", *letters, " "]

    def find(self, pixels: Pixels) -> tuple[Mark, ...]:
        """pixels: (H, W, 3) uint8 RGB. Returns every piece of writing, readable or not."""
        longest = max(pixels.shape[:2])
        overview = (View("raw", _OVERVIEW_SIDE / longest),) if longest > _TILE else ()
        return self._find(pixels, VIEWS + overview)

    def find_again(self, pixels: Pixels) -> tuple[Mark, ...]:
        """The same for pixels in which the first look's findings are covered."""
        return self._find(pixels, VIEWS_AFTER)

    def _find(self, pixels: Pixels, views: tuple[View, ...]) -> tuple[Mark, ...]:
        found = [
            mark
            for view in views
            for left, top, tile in _tiles(pixels, view)
            for mark in self._look(tile, view, (left, top))
        ]
        return without_inner(found)

    def _look(self, tile: Pixels, view: View, origin: tuple[int, int]) -> Iterator[Mark]:
        """Yield what one view of a tile shows; origin: x, y of the tile in the picture."""
        seen = _treated(tile, view)
        down, across = seen.shape[:2]
        padded = np.zeros((_up(down), _up(across), 3), np.float32)
        padded[:down, :across] = _scaled(seen)
        heat = self._detector.run(None, {"x": padded.transpose(2, 0, 1)[None]})[0][0, 0]
        for corners, score in self._boxes(heat[:down, :across]):
            points = _turn_back(corners, view.turns, across, down) / view.scale
            mark = self._mark(points, score)
            if not self._is_body(tile, mark):
                yield self._mark(_longer(points) + origin, score)

    def _mark(self, points: Values, score: float) -> Mark:
        a, b, c, d = ((int(x), int(y)) for x, y in np.round(points))
        return Mark((a, b, c, d), score, "text", self.name)

    def _is_body(self, tile: Pixels, mark: Mark) -> bool:
        """Whether a mark is the picture's subject rather than something written on it."""
        length, height = mark.sides
        least = max(_BODY_MIN_PX, _BODY_SHARE * min(tile.shape[:2]))
        if height < least or length > _BODY_LENGTH * height:
            return False
        reading = self.read(tile, mark)
        letters = sum(letter.isalnum() for letter in reading.words)
        return letters < _BODY_LETTERS or reading.score < _BODY_SCORE

    def _boxes(self, heat: Values) -> Iterator[tuple[Values, float]]:
        """Yield corners (4, 2) and score of each box in a map of heat.

        The map shows writing shrunk; boxes grow back by area * unclip / perimeter on each side
        (Liao et al., section 3.5), and by a pixel for the rounding of scales.
        """
        mask = cv2.dilate((heat > self._HEAT).astype(np.uint8), np.ones((2, 2), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in contours:
            (x, y), (w, h), angle = cv2.minAreaRect(contour)
            if min(w, h) < _MIN_SHRUNK_PX:
                continue
            left, top, width, height = cv2.boundingRect(contour)
            inner = np.zeros((height, width), np.uint8)
            cv2.fillPoly(inner, [contour - (left, top)], 1)
            score = cv2.mean(heat[top : top + height, left : left + width], inner)[0]
            if score < self._SCORE:
                continue
            grow = w * h * self._UNCLIP / (w + h) + 2
            corners = cv2.boxPoints(((x, y), (w + grow, h + grow), angle))
            yield np.asarray(corners, np.float32), float(score)

    def read(self, pixels: Pixels, mark: Mark) -> Reading:
        """Read one piece of writing; an unreadable one reads as no words."""
        line = _straightened(pixels, mark)
        height, width = line.shape[:2]
        across = min(_MAX_READ_WIDTH, max(_READ_HEIGHT, round(width * _READ_HEIGHT / height)))
        resized = np.asarray(cv2.resize(line, (across, _READ_HEIGHT)), np.uint8)
        batch = _scaled(resized).transpose(2, 0, 1)[None]
        steps = self._reader.run(None, {"x": np.ascontiguousarray(batch)})[0][0]
        best = steps.argmax(axis=1)
        is_letter = (best != 0) & np.append(True, best[1:] != best[:-1])
        if not is_letter.any():
            return Reading("", 0.0)
        words = "".join(self._letters[letter] for letter in best[is_letter])
        return Reading(words, float(steps.max(axis=1)[is_letter].mean()))


def _scaled(pixels: Pixels) -> Values:
    """Return RGB pixels as both networks take them: blue first, in [-1, 1]."""
    return pixels[..., ::-1].astype(np.float32) / np.float32(127.5) - 1


def _session(name: str, digest: str, threads: int) -> onnxruntime.InferenceSession:
    """Load a file of the `rapidocr` wheel without importing that: it would log and download."""
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or not spec.submodule_search_locations:
        raise ModelRefused("the weights of rapidocr are not installed")
    weights = Path(spec.submodule_search_locations[0], "models", name).read_bytes()
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ModelRefused("the weights of rapidocr are not those that were tested")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def _tiles(pixels: Pixels, view: View) -> Iterator[tuple[int, int, Pixels]]:
    """Yield left, top and pixels of tiles that cover the picture and share their borders.

    Blank ones are left out.
    """
    for top, bottom in _spans(pixels.shape[0], view.scale):
        for left, right in _spans(pixels.shape[1], view.scale):
            if not is_blank(tile := pixels[top:bottom, left:right]):
                yield left, top, tile


def _spans(length: int, scale: float) -> list[tuple[int, int]]:
    """Cut `length` into the fewest spans of one size, at most _TILE pixels of the view each."""
    side, shared = int(_TILE / scale), int(_SHARED / scale)
    count = max(1, -(-(length - shared) // (side - shared)))
    each = -(-(length + (count - 1) * shared) // count)
    starts = [at * (each - shared) for at in range(count)]
    return [(start, min(length, start + each)) for start in starts]


def _treated(tile: Pixels, view: View) -> Pixels:
    seen = np.ascontiguousarray(np.rot90(tile, view.turns))
    if view.scale != 1.0:
        size = (
            max(1, round(seen.shape[1] * view.scale)),
            max(1, round(seen.shape[0] * view.scale)),
        )
        how = cv2.INTER_CUBIC if view.scale > 1 else cv2.INTER_AREA
        seen = np.asarray(cv2.resize(seen, size, interpolation=how), np.uint8)
    if view.treatment == "inverted":
        return 255 - seen
    if view.treatment == "stretched":
        grey = cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)
        grey = cv2.createCLAHE(4.0, (8, 8)).apply(grey)
        return np.repeat(grey[..., None], 3, axis=2)
    return seen


def _turn_back(points: Values, turns: int, width: int, height: int) -> Values:
    for _ in range(turns % 4):
        points = np.stack([height - 1 - points[:, 1], points[:, 0]], axis=1)
        width, height = height, width
    return points


def _longer(points: Values) -> Values:
    """Add _ENDS of its height to both ends of a line: the heat of its last letters may be lost."""
    centre, (width, height), angle = cv2.minAreaRect(np.asarray(points, np.float32))
    more = 2 * _ENDS * min(width, height)
    size = (width + more, height) if width >= height else (width, height + more)
    return np.asarray(cv2.boxPoints((centre, size, angle)), np.float32)


def _straightened(pixels: Pixels, mark: Mark) -> Pixels:
    """Cut a mark out and lay its longer side level."""
    (x, y), (width, height), angle = cv2.minAreaRect(np.array(mark.corners, np.float32))
    if width < height:
        width, height, angle = height, width, angle - 90
    matrix = cv2.getRotationMatrix2D((x, y), (angle + 90) % 180 - 90, 1.0)
    matrix[0, 2] += width / 2 - x
    matrix[1, 2] += height / 2 - y
    size = (max(1, round(width)), max(1, round(height)))
    line = cv2.warpAffine(pixels, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(line, np.uint8)


def _up(side: int) -> int:
    return -(-side // _MULTIPLE) * _MULTIPLE
