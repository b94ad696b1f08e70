"""Which parts of a picture get vectors of their own, so that a small thing in it is found."""

from __future__ import annotations

from retrieval.models.image import Region
from workers.encode.encoder import Pixels

SHARE = 0.6  # of both sides: neighbours overlap, so that what lies on a border is whole in one
MIN_SIDE = 96  # pixels of a part; a smaller one shows nothing that the whole does not


def parts_of(width: int, height: int) -> list[Region]:
    """Four overlapping parts, one in each corner; none of a small picture."""
    w, h = round(SHARE * width), round(SHARE * height)
    if min(w, h) < MIN_SIDE:
        return []
    return [Region(x, y, w, h) for y in (0, height - h) for x in (0, width - w)]


def cut(pixels: Pixels) -> list[Pixels]:
    """What lies in the parts of (H, W, 3) de-identified pixels, in the order of `parts_of`."""
    height, width = pixels.shape[:2]
    return [pixels[r.y : r.y + r.h, r.x : r.x + r.w] for r in parts_of(width, height)]
