"""Encode what may be shown. Nothing but pixels goes in, so nothing but pixels comes out.

No metadata is stripped here, because none is ever carried this far: a derivative is written from
an array, never from the file that was received.
"""

import io

from PIL import Image

from workers.deidentify.faces import Pixels

# Longest side of a preview in pixels; larger pictures are scaled down.
PREVIEW_SIDE = 4096
THUMBNAIL_SIDE = 384
_QUALITY = 92


def encode_preview(pixels: Pixels) -> bytes:
    """pixels: (H, W, 3) uint8 RGB. Returns a JPEG of at most PREVIEW_SIDE pixels a side."""
    return _jpeg(pixels, PREVIEW_SIDE)


def encode_thumbnail(pixels: Pixels, side: int = THUMBNAIL_SIDE) -> bytes:
    """pixels: (H, W, 3) uint8 RGB. Returns a JPEG of at most `side` pixels a side."""
    return _jpeg(pixels, side)


def _jpeg(pixels: Pixels, side: int) -> bytes:
    picture = Image.fromarray(pixels, "RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY, subsampling="4:4:4")
    return out.getvalue()
