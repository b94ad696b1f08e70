"""Find bar codes and matrix codes: what a wristband or a label says to a scanner."""

from collections.abc import Iterator
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import zxingcpp

from workers.deidentify.marks import Mark, Pixels, is_blank, without_inner

# Share of a code's size that is covered beyond it: quiet zone and what the reader left out.
_MARGIN = 0.1
_MIN_MARGIN_PX = 4
# A linear code is read along one line; rows that look like that line belong to it.
_SAME_STRIPES = 0.5
_MAX_HEIGHT = 2.0  # of the code's length
# Enlarging stops here: larger pictures show their codes large enough.
_MAX_ENLARGED_PX = 2500
# Linear codes are read when level within some twenty degrees; degrees by which we turn besides.
_SLANTS = (30.0, 60.0)
# Local contrast of the stretched views.
_CLIP, _GRID = 8.0, (8, 8)
# A square that one view alone shows: ten modules, the fewest of a Data Matrix, of 1.5 pixels, up to
# what other views would show as well; and how much shorter one side may be.
_MIN_SQUARE_PX, _MAX_SQUARE_PX = 15, 100
_SQUARE = 0.9
# Share of a picture from which what a slanted view shows is the picture; a code that lies slanted
# within a picture takes half of it at most, and a little more if it is nearly level.
_PICTURE_SHARE = 0.6
# Grey levels at which a picture is cut into black and white.
_LEVELS = range(16, 256, 16)

_LINEAR = frozenset(
    zxingcpp.barcode_formats_list(zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.AllLinear))
)


Grey = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]


class CodeDetector(Protocol):
    """Anything that finds codes in pixels."""

    def find(self, pixels: Pixels) -> tuple[Mark, ...]:
        """pixels: (H, W, 3) uint8 RGB. Returns the codes found, read or not."""
        ...


class ZxingCodes:
    """ZXing-C++ (Apache-2.0): QR, Data Matrix, Aztec, PDF417 and the linear codes.

    It reads level codes in every quarter turn and inverted; here it also sees the picture
    enlarged, halved, slanted, with its contrast stretched, and in black and white. Matrix codes
    with a wrong check sum count once two of these views show them, or one a small square: a
    scanner may do better. What else one view alone shows is grain. Linear ones do not count: edges
    pass for them.
    """

    name = "zxing"

    def find(self, pixels: Pixels) -> tuple[Mark, ...]:
        """pixels: (H, W, 3) uint8 RGB. Returns the codes found, read or not."""
        if is_blank(pixels):
            return ()
        return without_inner(_confirmed(list(self._marks(pixels))))

    def _marks(self, pixels: Pixels) -> Iterator[tuple[Mark, bool]]:
        """Yield the codes of each view, and whether one view is enough to believe in them."""
        grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), np.uint8)
        for seen, back, codes in _looks(grey):
            for code in codes:
                corners = _corners(code.position)
                if not code.valid and _is_picture(corners, back, grey):
                    continue
                sure = code.valid or _is_small_square(_affine(corners, back))
                if code.format in _LINEAR:
                    corners = _whole_stripes(seen, corners)
                points = _affine(_grown(corners), back).round().astype(int)
                a, b, c, d = ((int(x), int(y)) for x, y in points)
                yield Mark((a, b, c, d), 1.0 if code.valid else 0.5, "code", self.name), sure


def _confirmed(marks: list[tuple[Mark, bool]]) -> list[Mark]:
    """Drop what one view alone shows, unless that is enough.

    Damaged codes were seen in two to six of six views, what was invented nearly always in one
    (docs/benchmarks.md).
    """
    return [
        mark
        for at, (mark, sure) in enumerate(marks)
        if sure or any(_same(mark, other) for other, _ in marks[:at] + marks[at + 1 :])
    ]


def _is_small_square(corners: Points) -> bool:
    """Whether four corners are those of a small square, which anatomy hardly shows."""
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    longest = float(sides.max())
    shortest = float(sides.min())
    return longest <= _MAX_SQUARE_PX and shortest >= max(_MIN_SQUARE_PX, _SQUARE * longest)


def _is_picture(corners: Points, back: Points, grey: Grey) -> bool:
    """Whether a slanted view took the picture itself for a code: its edges on white pass for one.

    A code that fills a picture is level, and a level view shows it.
    """
    is_slanted = back[0, 1] != 0
    area = cv2.contourArea(_affine(corners, back).astype(np.float32))
    return bool(is_slanted and area > _PICTURE_SHARE * grey.size)


def _same(one: Mark, other: Mark) -> bool:
    """Whether the middle of each lies in the other."""
    first, second = (np.array(mark.corners, np.float32) for mark in (one, other))
    return _holds(first, second.mean(axis=0)) and _holds(second, first.mean(axis=0))


def _holds(corners: npt.NDArray[np.float32], point: npt.NDArray[np.float32]) -> bool:
    where = (float(point[0]), float(point[1]))
    return cv2.pointPolygonTest(corners, where, measureDist=False) >= 0


def _looks(grey: Grey) -> Iterator[tuple[Grey, Points, list[zxingcpp.Barcode]]]:
    """Yield each view, the (2, 3) map from there back to the picture, and the codes in it."""
    for seen, back in _views(grey):
        found = zxingcpp.read_barcodes(seen, return_errors=True)
        yield seen, back, [code for code in found if code.valid or not _is_invented(code)]
    # The corner of a faint Data Matrix shows in black and white alone, cut at the right level. So
    # many views would invent many: here what is read counts.
    for level in _LEVELS:
        cut = np.where(grey > level, np.uint8(255), np.uint8(0))
        yield (
            cut,
            np.eye(2, 3),
            zxingcpp.read_barcodes(
                cut,
                formats=zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.DataMatrix),
                binarizer=zxingcpp.Binarizer.BoolCast,
            ),
        )


def _is_invented(code: zxingcpp.Barcode) -> bool:
    """Whether what cannot be read is no code: bones and ribs hold bars, and corners of a matrix.

    A matrix of a size that there is none of was seen in one X-ray of 23, over all of it.
    """
    error = None if code.error is None else code.error.type
    return code.format in _LINEAR or error == zxingcpp.ErrorType.Format


def _views(grey: Grey) -> Iterator[tuple[Grey, Points]]:
    """Yield the picture as it is seen, and the (2, 3) map from there back to the picture."""
    height, width = grey.shape
    scales = [1.0, 0.5] if max(height, width) > _MAX_ENLARGED_PX / 2 else [1.0, 2.0]
    for scale in scales:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        back = np.array([[width / size[0], 0, 0], [0, height / size[1], 0]], np.float64)
        seen = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        yield np.asarray(seen, np.uint8), back
        # What is printed faintly, or photographed in bad light.
        stretched = cv2.createCLAHE(_CLIP, _GRID).apply(np.asarray(seen, np.uint8))
        yield np.asarray(stretched, np.uint8), back
    for angle in _SLANTS:
        there = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
        side = int(np.ceil(np.hypot(height, width)))
        there[:, 2] += (side - width) / 2, (side - height) / 2
        turned = cv2.warpAffine(grey, there, (side, side), borderValue=255)
        back = np.asarray(cv2.invertAffineTransform(there), np.float64)
        yield np.asarray(turned, np.uint8), back


def _affine(points: Points, matrix: Points) -> Points:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _corners(position: zxingcpp.Position) -> Points:
    """(4, 2) x, y in order around the code."""
    corners = (position.top_left, position.top_right, position.bottom_right, position.bottom_left)
    return np.array([(corner.x, corner.y) for corner in corners], np.float64)


def _whole_stripes(grey: Grey, corners: Points) -> Points:
    """Stretch what a linear code was read from to where its stripes end, up and down."""
    top_left, top_right, bottom_right, bottom_left = corners
    start, end = (top_left + bottom_left) / 2, (top_right + bottom_right) / 2
    length = float(np.hypot(*(end - start)))
    if length < 2:  # noqa: PLR2004 - a point has no direction
        return corners
    along = (end - start) / length
    down = np.array([-along[1], along[0]])
    reach = int(np.ceil(length * _MAX_HEIGHT))
    # Rows of the strip run along the code; the middle one is where it was read.
    origin = start - reach * down
    strip_to_picture = np.column_stack([along, down, origin])
    strip = cv2.warpAffine(
        grey,
        strip_to_picture,
        (int(length) + 1, 2 * reach + 1),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=128,
    ).astype(np.float64)
    strip -= strip.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(strip, axis=1)
    alike = strip @ strip[reach] / np.maximum(norms * norms[reach], 1e-9) > _SAME_STRIPES
    above = reach - int(np.argmin(np.append(alike[reach::-1], False)))
    below = reach + int(np.argmin(np.append(alike[reach:], False)))
    edges = np.array([[0, above], [length, above], [length, below], [0, below]], np.float64)
    stretched = _affine(edges, strip_to_picture)
    everything = np.concatenate([corners, stretched]).astype(np.float32)
    return np.asarray(cv2.boxPoints(cv2.minAreaRect(everything)), np.float64)


def _grown(corners: Points) -> Points:
    """Add the margin on all sides of the smallest rectangle around `corners`."""
    centre, (width, height), angle = cv2.minAreaRect(corners.astype(np.float32))
    more = 2 * max(_MIN_MARGIN_PX, _MARGIN * max(width, height))
    grown = cv2.boxPoints((centre, (width + more, height + more), angle))
    return np.asarray(grown, np.float64)
