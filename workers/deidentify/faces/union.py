"""Several networks over several views of a picture, their evidence added up, one list of faces."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from workers.deidentify.faces import boxes
from workers.deidentify.faces.added import read_detectors
from workers.deidentify.faces.boxes import BOTTOM, LEFT, RIGHT, SCORE, TOP, Boxes
from workers.deidentify.faces.centerface import CenterFace
from workers.deidentify.faces.face import Face, Pixels
from workers.deidentify.faces.mtcnn import Mtcnn
from workers.deidentify.faces.network import Network
from workers.deidentify.marks import is_blank

# Left, top, right, bottom in whole pixels.
Area = tuple[int, int, int, int]

DEFAULT_THRESHOLD = 0.2

# Evidence from which something is a face, as a multiple of a profile's threshold: eight views add
# up to more than one does.
_EVIDENCE = 1.5
# Below this share of that, a view has seen nothing. Below the floor, every stone is something.
_FAINTEST = 0.17
_FLOOR = 0.02
# Intersection over union from which two views mean one face.
_SAME = 0.4

# Views up to this side are looked at however small the picture is; a larger one only if the
# picture has this share of its pixels along a side.
_ALWAYS = 448
_ENOUGH = 0.8
_MAX_ENLARGEMENT = 3.0
# A closer look pays at what is smaller than this in it, in pixels, and has this share of the
# evidence that a face needs; with so much room around, in sides of a face, and so many pixels.
_SMALL = 80
_DOUBTFUL = 0.5
_ROOM = 1.0
_CLOSE_PIXELS = 1_000_000
# A picture with a side from here on is looked at in its own pixels, too, in tiles that overlap;
# of one with more pixels in all, as many as these.
_TILED = 1600
_TILE, _OVERLAP = 1280, 96
_TILED_PIXELS = 16_000_000
# On a CPU several at once are no faster, and take 0.5 GB each.
_TILES_AT_ONCE = 1


@dataclass(frozen=True)
class View:
    """One way to look at a picture.

    side: its long side in pixels. turns: quarter turns to the left. mirrored: left for right.
    weight: what a score is worth here; sideways, folds and shadows pass for faces more easily.
    """

    side: int
    turns: int = 0
    mirrored: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Watch:
    """A network and what it looks at.

    weight: what its score is worth beside the others'. closer: whether it also looks at large
    pictures in tiles and at small doubtful places enlarged.
    """

    network: Network
    views: tuple[View, ...]
    weight: float = 1.0
    closer: bool = False


# One pass at 640 pixels finds nine faces in ten. Views of other sizes find what fills the frame or
# is far away, the mirror images what the others had almost seen, and the turned ones, which may be
# small, people lying down and pictures taken sideways. docs/benchmarks.md has what each is worth.
_UPRIGHT = (View(320, mirrored=True), View(_ALWAYS), View(640, mirrored=True), View(1280))
_TURNED = (View(320, 2, weight=0.6), View(320, 1, weight=0.6), View(320, 3, weight=0.6))
_CLOSER = (1280, 2560)
# The least faces of a large picture show in no other view: this one's evidence must do.
_OWN_PIXELS = View(0, weight=_EVIDENCE)
_MTCNN = View(320)
_MTCNN_WEIGHT = 0.3
# Side in pixels of MTCNN's smallest window: below, it finds little and its cost grows fourfold.
_MTCNN_SMALLEST = 20.0
# What an operator adds is looked through at this size.
_ADDED = View(640)


class Union:
    """Every face for which several networks in several views have evidence enough.

    Not tied to a thread: may be shared.
    """

    name = "union"

    def __init__(self, watches: Sequence[Watch], *, threshold: float = DEFAULT_THRESHOLD) -> None:
        """threshold: a profile's, in (0, 1)."""
        self._watches = tuple(watches)
        self._evidence = min(_EVIDENCE * threshold, 0.95)
        self._faintest = max(_FLOOR, _FAINTEST * self._evidence)

    def detect(self, pixels: Pixels) -> list[Face]:
        """pixels: (H, W, 3) uint8 RGB. Returns faces inside the picture, best score first.

        A face has the box of the view that saw it best and the name of that view's network.
        """
        if is_blank(pixels):
            return []
        height, width = pixels.shape[:2]
        picture = Image.fromarray(pixels)
        seen: list[tuple[Boxes, str]] = []
        for watch in self._watches:
            if watch.weight < self._evidence and not self._undecided(seen):
                continue
            found = list(self._see(watch, picture, _all_of(watch.views, picture.size)))
            if watch.closer:
                found += self._see_closer(watch, picture, found)
            seen += [(rows, watch.network.name) for rows in found]
        rows, views = _together(seen)
        faces = []
        for at, evidence in _agreed(rows, views, self._evidence):
            box = boxes.whole_pixels(rows[at], width, height)
            faces.append(Face(box, evidence, seen[views[at]][1]))
        return sorted(faces, key=lambda face: -face.score)

    def _undecided(self, seen: list[tuple[Boxes, str]]) -> bool:
        """Whether anything seen is not yet a face: only there can a little weight decide."""
        agreed = _agreed(*_together(seen), self._faintest)
        return any(evidence <= self._evidence for _, evidence in agreed)

    def _see(
        self, watch: Watch, picture: Image.Image, views: Sequence[tuple[View, float]]
    ) -> Iterator[Boxes]:
        """Yield what one network sees in each view, weighted, in pixels of `picture`.

        Views of one size go through the network together.
        """
        for (size, _), alike in itertools.groupby(
            views, lambda pair: (_scaled(picture.size, pair[1]), pair[0].turns % 2)
        ):
            batch = [view for view, _ in alike]
            small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
            faintest = self._faintest / watch.weight / max(view.weight for view in batch)
            found = watch.network.look(
                np.stack([_turned(small, view) for view in batch]), min(faintest, 0.95)
            )
            for view, rows in zip(batch, found, strict=True):
                yield _upright(rows, view, size, picture.size, watch.weight)

    def _see_closer(
        self, watch: Watch, picture: Image.Image, found: Sequence[Boxes]
    ) -> Iterator[Boxes]:
        """Yield what one network sees of a large picture's own pixels, or where it had doubts."""
        if max(picture.size) >= _TILED:
            yield self._see_tiles(watch, picture)
        elif area := _doubtful(found, picture.size, _DOUBTFUL * self._evidence):
            for rows in self._see(watch, picture.crop(area), [_closer(picture.size, area)]):
                yield boxes.moved(rows, area[0], area[1])

    def _see_tiles(self, watch: Watch, picture: Image.Image) -> Boxes:
        scale = min(1.0, (_TILED_PIXELS / (picture.width * picture.height)) ** 0.5)
        size = _scaled(picture.size, scale)
        pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
        (wide, lefts), (high, tops) = (_tiles(side) for side in size)
        corners = [
            (top, left)
            for top, left in itertools.product(tops, lefts)
            if not is_blank(pixels[top : top + high, left : left + wide])
        ]
        faintest = min(self._faintest / watch.weight / _OWN_PIXELS.weight, 0.95)
        found = [boxes.NONE]
        for at in range(0, len(corners), _TILES_AT_ONCE):
            some = corners[at : at + _TILES_AT_ONCE]
            batch = np.stack([pixels[top : top + high, left : left + wide] for top, left in some])
            for (top, left), rows in zip(some, watch.network.look(batch, faintest), strict=True):
                found.append(boxes.moved(rows, left, top))
        return _upright(np.concatenate(found), _OWN_PIXELS, size, picture.size, watch.weight)


def _together(seen: list[tuple[Boxes, str]]) -> tuple[Boxes, npt.NDArray[np.intp]]:
    """Return all boxes, and for each the number of its view."""
    views = np.repeat(np.arange(len(seen)), [len(rows) for rows, _ in seen])
    return np.concatenate([boxes.NONE, *(rows for rows, _ in seen)]), views


def _tiles(side: int) -> tuple[int, list[int]]:
    """Return the length of the fewest equal tiles that cover `side`, and where each starts."""
    count = max(1, -(-(side - _OVERLAP) // (_TILE - _OVERLAP)))
    length = min(side, -(-(side - _OVERLAP) // count) + _OVERLAP)
    return length, [round(at) for at in np.linspace(0, side - length, count)]


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def union(
    *,
    threshold: float = DEFAULT_THRESHOLD,
    added: Path | None = None,
) -> Union:
    """Return the detectors of this appliance as one.

    added: the operator's list of further detectors (see added.py). Raises ModelRefused.
    """
    watches = [
        Watch(CenterFace(), _UPRIGHT + _TURNED, closer=True),
        Watch(Mtcnn(smallest=_MTCNN_SMALLEST), (_MTCNN,), _MTCNN_WEIGHT),
    ]
    for detector in read_detectors(added) if added else ():
        # What the operator takes for a face is one by itself.
        weight = _EVIDENCE * DEFAULT_THRESHOLD / detector.threshold
        watches.append(Watch(detector, (_ADDED,), weight))
    return Union(watches, threshold=threshold)


def _all_of(views: Sequence[View], of: tuple[int, int]) -> list[tuple[View, float]]:
    """Drop large views that need more pixels than the picture has; each with its scale."""
    side = max(of)
    return [
        (view, min(view.side / side, _MAX_ENLARGEMENT))
        for view in views
        if view.side <= _ALWAYS or view == _ADDED or side >= _ENOUGH * view.side
    ]


def _closer(of: tuple[int, int], area: Area) -> tuple[View, float]:
    """Return the view that comes after those which show a picture as a whole, for part of it."""
    side = next(side for side in _CLOSER if max(of) < _ENOUGH * side)
    pixels = (area[2] - area[0]) * (area[3] - area[1])
    most = (_CLOSE_PIXELS / pixels) ** 0.5
    return View(side), min(side / max(of), _MAX_ENLARGEMENT, most)


def _doubtful(seen: Sequence[Boxes], of: tuple[int, int], least: float) -> Area | None:
    """Return where a closer look pays: around all that is small and may be a face.

    One area: pixels of empty ground cost less than a second call. least: score of what may be one.
    """
    _, scale = _closer(of, (0, 0, 1, 1))
    rows = np.concatenate([boxes.NONE, *seen])
    rows = rows[rows[:, SCORE] >= least]
    sides = np.maximum(rows[:, RIGHT] - rows[:, LEFT], rows[:, BOTTOM] - rows[:, TOP])
    rows, room = rows[sides * scale < _SMALL], _ROOM * sides[sides * scale < _SMALL]
    if not len(rows):
        return None
    return (
        max(0, int((rows[:, LEFT] - room).min())),
        max(0, int((rows[:, TOP] - room).min())),
        min(of[0], int((rows[:, RIGHT] + room).max()) + 1),
        min(of[1], int((rows[:, BOTTOM] + room).max()) + 1),
    )


def _turned(pixels: Pixels, view: View) -> Pixels:
    turned = np.rot90(pixels, view.turns)
    return turned[:, ::-1] if view.mirrored else turned


def _upright(
    rows: Boxes, view: View, size: tuple[int, int], of: tuple[int, int], weight: float
) -> Boxes:
    """Undo `_turned` and the scale; one box a face."""
    width, height = size if view.turns % 2 == 0 else size[::-1]
    if view.mirrored:
        rows = boxes.mirror_back(rows, width)
    rows = boxes.merge(boxes.turn_back(rows, view.turns, width, height))
    rows[:, [LEFT, RIGHT]] *= of[0] / size[0]
    rows[:, [TOP, BOTTOM]] *= of[1] / size[1]
    rows[:, SCORE] = (rows[:, SCORE] * weight * view.weight).clip(0, 0.999)
    return rows


def _agreed(
    rows: Boxes, views: npt.NDArray[np.intp], threshold: float
) -> Iterator[tuple[int, float]]:
    """Yield the row that stands for each face, and the evidence of all views that mean it.

    Views err mostly one without another: the chance that all of them do is the product of theirs.
    """
    left = np.argsort(-rows[:, SCORE], kind="stable")
    standing, evidence = [], []
    while len(left):
        best = left[0]
        same = boxes.iou(rows[best], rows[left]) >= _SAME
        same[0] = True
        doubt = np.ones(int(views.max()) + 1)
        np.minimum.at(doubt, views[left[same]], 1 - rows[left[same], SCORE])
        if (sure := float(1 - doubt.prod())) > threshold:
            standing.append(best)
            evidence.append(sure)
        left = left[~same]
    kept = rows[standing]
    kept[:, SCORE] = evidence
    for at in boxes.merged(kept):
        yield int(standing[at]), evidence[at]
