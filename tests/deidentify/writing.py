"""Pictures with writing and codes at known places."""

import numpy as np
import zxingcpp
from PIL import Image, ImageDraw, ImageFont

from tests.decode import samples
from workers.decode.sandbox import decode
from workers.deidentify.marks import Pixels


def slice_of_a_body() -> Pixels:
    """A CT slice of pydicom's, 512 by 512, without any writing."""
    return decode(samples.dicom("693_J2KI.dcm")).pixels


def written(
    pixels: Pixels, words: str, at: tuple[int, int], *, size: int = 16, grey: int = 255
) -> Pixels:
    """Return `pixels` with `words` written at x, y."""
    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).text(at, words, fill=(grey,) * 3, font=ImageFont.load_default(size))
    return np.asarray(picture)


def code(text: str, kind: str, scale: int = 3) -> Pixels:
    """Return a bar or matrix code with its quiet zone."""
    made = zxingcpp.create_barcode(text, zxingcpp.barcode_format_from_str(kind))
    grey = np.asarray(made.to_image(scale=scale, add_quiet_zones=True))
    return np.repeat(grey[..., None], 3, axis=2)


def pasted(pixels: Pixels, part: Pixels, at: tuple[int, int]) -> Pixels:
    """Return `pixels` with `part` laid over it at x, y."""
    x, y = at
    whole = pixels.copy()
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return whole
