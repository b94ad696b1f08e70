"""Boxes as rows: overlap, suppression, turning back into the upright picture."""

import numpy as np
import numpy.typing as npt

# (N, 5) float32: left, top, right, bottom in pixels, and score.
Boxes = npt.NDArray[np.float32]
LEFT, TOP, RIGHT, BOTTOM, SCORE = range(5)

NONE: Boxes = np.empty((0, 5), np.float32)


def strongest(boxes: Boxes, *, same: float) -> npt.NDArray[np.intp]:
    """Return which boxes remain, best score first (greedy non-maximum suppression).

    same: intersection over union from which two boxes are one.
    """
    order = np.argsort(-boxes[:, SCORE], kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[iou(boxes[best], boxes[order]) < same]
    return np.array(kept, np.intp)


def merge(boxes: Boxes) -> Boxes:
    """Keep the best of the boxes that mean one face, best score first."""
    return boxes[merged(boxes)]


def merged(
    boxes: Boxes, *, same: float = 0.35, inside: float = 0.8, part: float = 0.25
) -> npt.NDArray[np.intp]:
    """Return which boxes remain, best score first.

    As `strongest`, and a box is dropped, too, if a share of `inside` of it lies in a better one
    that is at most 1 / `part` times as large: a small face in front of a large one stays. A larger
    box is never dropped for a small one inside it.
    """
    order = np.argsort(-boxes[:, SCORE], kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        left = boxes[order]
        shared, area = overlap(boxes[best], left), areas(left)
        whole = areas(boxes[best][None])
        is_part = (shared >= inside * area) & (area >= part * whole)
        order = order[(shared < same * (whole + area - shared)) & ~is_part]
    return np.array(kept, np.intp)


def iou(one: npt.NDArray[np.float32], many: Boxes) -> npt.NDArray[np.float32]:
    """Intersection over union of one box with each of many."""
    shared = overlap(one, many)
    union = areas(one[None]) + areas(many) - shared
    return np.asarray(shared / np.maximum(union, 1e-6), dtype=np.float32)


def overlap(one: npt.NDArray[np.float32], many: Boxes) -> npt.NDArray[np.float32]:
    """Area that one box shares with each of many, in square pixels."""
    across = np.minimum(one[RIGHT], many[:, RIGHT]) - np.maximum(one[LEFT], many[:, LEFT])
    down = np.minimum(one[BOTTOM], many[:, BOTTOM]) - np.maximum(one[TOP], many[:, TOP])
    return np.asarray(across.clip(0) * down.clip(0), dtype=np.float32)


def areas(boxes: Boxes) -> npt.NDArray[np.float32]:
    """Area of each box in square pixels."""
    sides = (boxes[:, RIGHT] - boxes[:, LEFT]) * (boxes[:, BOTTOM] - boxes[:, TOP])
    return np.asarray(sides, dtype=np.float32)


def clip(boxes: Boxes, width: int, height: int) -> Boxes:
    """Cut boxes at the edges and drop those that lie beyond them."""
    boxes = boxes.copy()
    boxes[:, [LEFT, RIGHT]] = boxes[:, [LEFT, RIGHT]].clip(0, width)
    boxes[:, [TOP, BOTTOM]] = boxes[:, [TOP, BOTTOM]].clip(0, height)
    return boxes[(boxes[:, RIGHT] > boxes[:, LEFT]) & (boxes[:, BOTTOM] > boxes[:, TOP])]


def turn_back(boxes: Boxes, turns: int, width: int, height: int) -> Boxes:
    """Undo `turns` quarter turns to the left of a view of (width, height)."""
    left, top, right, bottom, score = boxes.T
    for _ in range(turns % 4):
        left, top, right, bottom = height - bottom, left, height - top, right
        width, height = height, width
    return np.stack([left, top, right, bottom, score], axis=1)


def mirror_back(boxes: Boxes, width: int) -> Boxes:
    """Undo the mirror image of a view that is `width` pixels across."""
    boxes = boxes.copy()
    boxes[:, [LEFT, RIGHT]] = width - boxes[:, [RIGHT, LEFT]]
    return boxes


def moved(boxes: Boxes, across: float, down: float) -> Boxes:
    """Move boxes to the right and down."""
    return boxes + np.array([across, down, across, down, 0], np.float32)


def whole_pixels(
    row: npt.NDArray[np.float32], width: int, height: int
) -> tuple[int, int, int, int]:
    """Return x, y, w, h of the smallest whole-pixel box around a row, inside the picture."""
    left, top = (int(np.floor(row[at])) for at in (LEFT, TOP))
    right = min(width, int(np.ceil(row[RIGHT])))
    bottom = min(height, int(np.ceil(row[BOTTOM])))
    left, top = max(0, min(left, width - 1)), max(0, min(top, height - 1))
    return left, top, max(1, right - left), max(1, bottom - top)
