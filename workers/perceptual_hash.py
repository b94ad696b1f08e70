"""A hash of what a picture shows, alike for copies of it: near-duplicates differ in few bits.

The signs of low frequencies against their median: pHash, Zauner 2010, "Implementation and
Benchmarking of Perceptual Image Hash Functions", section 3.2.1.
"""

import cv2
import numpy as np

from workers.encode.encoder import Pixels

_SIDE = 32
_FREQUENCIES = 8


def perceptual_hash(pixels: Pixels) -> str | None:
    """Sixty-four 0s and 1s of de-identified pixels, (H, W, 3) uint8 RGB; None for a plain one.

    A picture of one colour has no frequencies but noise, and would be a copy of every other.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < 1.0:
        return None
    low = cv2.dct(small.astype(np.float32))[1 : _FREQUENCIES + 1, 1 : _FREQUENCIES + 1].ravel()
    return "".join("01"[int(bit)] for bit in low > np.median(low))
