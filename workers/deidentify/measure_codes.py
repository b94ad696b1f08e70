"""Print bar and matrix codes at known places over pictures, and count what the detector covers."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import zxingcpp

from workers.deidentify.codes import CodeDetector
from workers.deidentify.marks import Pixels, cover_marks

# A code counts as hidden once so much of it is covered: with less, a scanner may still correct.
HIDDEN_SHARE = 0.9

_FORMATS = {
    "QR code": zxingcpp.BarcodeFormat.QRCode,
    "Data Matrix": zxingcpp.BarcodeFormat.DataMatrix,
    "Code 128": zxingcpp.BarcodeFormat.Code128,
}
# As printed and photographed: pixels of the narrowest bar or module, degrees, grey levels between
# dark and light.
_CONDITIONS = {
    "level, 3 px": (3.0, 0.0, 220),
    "level, 2 px": (2.0, 0.0, 220),
    "level, 1.5 px": (1.5, 0.0, 220),
    "turned by up to 45°, 3 px": (3.0, 45.0, 220),
    "faint (50 levels), 3 px": (3.0, 10.0, 50),
    "faint (25 levels), 3 px": (3.0, 10.0, 25),
}


@dataclass(frozen=True)
class Printed:
    """A picture, (H, W, 3) uint8 RGB, with one code in it. area: (H, W) bool, its modules."""

    kind: str
    condition: str
    pixels: Pixels
    area: npt.NDArray[np.bool_]


def printed(pictures: Iterable[Pixels], *, seed: int = 1) -> Iterator[Printed]:
    """Yield each picture with one code of every kind under every condition, where it has room."""
    chance = random.Random(seed)  # noqa: S311 - to be the same again
    for pixels in pictures:
        for kind, code_format in _FORMATS.items():
            for condition, (module_px, degrees, levels) in _CONDITIONS.items():
                number = f"MRN {chance.randrange(10**6, 10**8)}"
                bars = _bars(code_format, number)
                angle = chance.uniform(-degrees, degrees)
                stamp, ink = _stamp(bars, module_px, angle, levels)
                height, width = stamp.shape
                if height >= pixels.shape[0] or width >= pixels.shape[1]:
                    continue
                top = chance.randrange(pixels.shape[0] - height)
                left = chance.randrange(pixels.shape[1] - width)
                at = np.s_[top : top + height, left : left + width]
                seen, area = pixels.copy(), np.zeros(pixels.shape[:2], bool)
                shown = stamp > 0
                seen[at][shown] = stamp[shown][:, None]
                area[at] = ink
                yield Printed(kind, condition, seen, area)


def is_hidden(code: Printed, detector: CodeDetector) -> bool:
    """Whether a detector's covers hide a printed code."""
    white = np.full_like(code.pixels, 255)
    under = cover_marks(white, detector.find(code.pixels))[..., 0] == 0
    return bool(under[code.area].mean() >= HIDDEN_SHARE)


def _bars(code_format: zxingcpp.BarcodeFormat, text: str) -> npt.NDArray[np.uint8]:
    """(rows, columns) uint8, 0 where a module is dark and 255 where it is light, with its rim."""
    written = zxingcpp.create_barcode(text, code_format)
    return np.asarray(zxingcpp.write_barcode_to_image(written, scale=1), np.uint8)


def _stamp(
    bars: npt.NDArray[np.uint8], module_px: float, angle: float, levels: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A label with the code, (h, w): 0 where there is no label; and where its code is."""
    size = (round(bars.shape[1] * module_px), round(bars.shape[0] * module_px))
    code = cv2.resize(bars, size, interpolation=cv2.INTER_AREA if module_px < 1 else 1)
    label = (235 - levels + code.astype(np.float32) / 255 * levels).round().astype(np.uint8)
    dark = np.argwhere(code < 128)  # noqa: PLR2004 - half way
    inside = np.zeros_like(label)
    (top, left), (bottom, right) = dark.min(axis=0), dark.max(axis=0)
    inside[top : bottom + 1, left : right + 1] = 255
    side = int(np.ceil(np.hypot(*label.shape)))
    turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), angle, 1.0)
    turn[:, 2] += (side - size[0]) / 2, (side - size[1]) / 2
    turned = [cv2.warpAffine(one, turn, (side, side)) for one in (label, inside)]
    rows, columns = np.nonzero(turned[0])
    cut = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return np.asarray(turned[0][cut], np.uint8), np.asarray(turned[1][cut] > 127)  # noqa: PLR2004
