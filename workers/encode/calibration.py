"""Pictures for int8: those that come with scikit-image.

Nobody's own: a file of ranges says nothing of any collection, and a cheaper version is made
anywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from workers.encode.encoder import Pixels

PARTS_EACH = 3
LEAST_SHARE = 0.3  # of the whole's sides
LEAST_SIDE = 128  # pixels; what is smaller is a test pattern
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
_FOLDER = Path(skimage.__file__).parent / "data"


def parts() -> list[Pixels]:
    """To measure the ranges of numbers on: (H, W, 3) uint8, the same at every call.

    Parts at several scales of photographs, micrographs, pages and patterns, since most of a
    network's outliers are of detail.
    """
    rng = np.random.default_rng(0)
    found = []
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix not in {".png", ".jpg"}:
            continue
        whole = _read(path)
        if min(whole.shape[:2]) < LEAST_SIDE:
            continue
        for _ in range(PARTS_EACH):
            height, width = (int(side * rng.uniform(LEAST_SHARE, 1)) for side in whole.shape[:2])
            top = rng.integers(0, whole.shape[0] - height + 1)
            left = rng.integers(0, whole.shape[1] - width + 1)
            found.append(np.ascontiguousarray(whole[top : top + height, left : left + width]))
    return found


def photographs() -> list[Pixels]:
    """To compare vectors on: (H, W, 3) uint8.

    Whole, and of things in the world: the embedded encoder's cosine on them, .991, is that on
    Flickr8k, .990; on patterns and pages it is .96.
    """
    return [_read(_FOLDER / name) for name in PHOTOGRAPHS]


def _read(path: Path) -> Pixels:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))
