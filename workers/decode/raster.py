"""Photographs, scans and drawings, read by Pillow. Runs inside the sandbox only."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pi_heif
from PIL import AvifImagePlugin, Image, ImageCms, ImageFile, UnidentifiedImageError

from retrieval import media
from retrieval.errors import Reason, Rejected
from workers.decode.limits import Limits
from workers.decode.picture import Picture, Pixels, check_size, strips

# Formats whose decoders we accept to run.
MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "PPM": "image/x-portable-anymap",
    "AVIF": "image/avif",
    "HEIF": "image/heif",
}
# A JPEG with a second view, as phones write it: Pillow opens it as JPEG, then names it so.
_NAMED_ON_OPENING = {"MPO": "image/jpeg"}
# What Pillow takes for a pixel; 4 in all other modes.
_BYTES_A_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}
_EXIF_ORIENTATION = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = frozenset({5, 6, 7, 8})
# Orientations whose first upright row comes from the last row or column of the file.
_FROM_THE_END = frozenset({3, 4, 7, 8})
# For pictures of which mode a profile of which colour space is taken, and in which mode.
_PROFILE_MODES = {
    ("RGB", "RGB"): "RGB",
    ("RGB", "RGBA"): "RGB",
    ("RGB", "P"): "RGB",
    ("RGB", "PA"): "RGB",
    ("GRAY", "L"): "L",
    ("GRAY", "LA"): "L",
    ("CMYK", "CMYK"): "CMYK",
}
# Printers' profiles hold tables of 1 to 3 MB.
_MAX_PROFILE_BYTES = 8 * 1024**2
_SRGB = ImageCms.createProfile("sRGB")
# What Pillow and its codecs raise on damaged input; anything else is DECODE_FAILED in the zygote.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def preload() -> None:
    """Load every plugin now: a confined process cannot open the files they are in."""
    Image.MAX_IMAGE_PIXELS = None  # `check_size` is stricter, and its reason is typed
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter("ignore")
    Image.init()
    # A confined process has one thread, and a decoder that wants more fails.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pi_heif.register_heif_opener(thumbnails=False, decode_threads=1, aux_images=False)


def open_raster(content: bytes, limits: Limits, *, side: int | None = None) -> Picture:
    """Recognise and measure a picture by its header.

    side: pixels that a JPEG's shorter side must keep, where less than its whole detail is wanted.

    Raises Rejected: NOT_AN_IMAGE if no accepted format knows it; TRUNCATED, TOO_SMALL,
    TOO_MANY_PIXELS, DECODE_FAILED, DECODE_MEMORY. `paint` of the result raises the same.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=tuple(MEDIA_TYPES))
    except UnidentifiedImageError:
        if not (media.sniff(content[: media.HEAD_BYTES]) or "").startswith("image/"):
            raise Rejected(Reason.NOT_AN_IMAGE) from None
        raise Rejected(_damage(content, "")) from None
    except _DAMAGE as exc:
        raise Rejected(_damage(content, str(exc))) from exc
    media_type = (MEDIA_TYPES | _NAMED_ON_OPENING)[image.format or ""]
    check_size(image.height, image.width, 1, limits)
    if _holds_too_little(image, content):
        raise Rejected(Reason.TRUNCATED)
    # Before the orientation is asked for: to find it, Pillow unpacks a whole PNG.
    held = _BYTES_A_PIXEL.get(image.mode, 4) + 3
    if held * image.width * image.height > limits.memory_bytes:
        raise Rejected(Reason.DECODE_MEMORY)
    try:
        frames = int(getattr(image, "n_frames", 1))
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGE as exc:
        raise Rejected(_damage(content, str(exc))) from exc
    check_size(image.height, image.width, frames, limits)
    if side is not None:
        # JPEG alone knows how: the inverse transform of each 8×8 block leaves out the high
        # frequencies. Other formats keep their size.
        image.draft(None, (side, side))
    # Pillow turns a TIFF itself, and has swapped its sides already.
    if orientation not in _TRANSPOSES or image.format == "TIFF":
        orientation = 1
    width, height = image.size[::-1] if orientation in _SWAPS_SIDES else image.size

    def paint(out: Pixels) -> None:
        try:
            image.load()
        except _DAMAGE as exc:
            raise Rejected(_damage(content, str(exc))) from exc
        if image.size not in {(width, height), (height, width)}:
            raise Rejected(Reason.DECODE_FAILED)
        _paint_upright(image, orientation, out)

    return Picture(height, width, frames, media_type, paint)


def _holds_too_little(image: Image.Image, content: bytes) -> bool:
    """Whether a JPEG has fewer bits than 8×8 blocks; each takes one at least (T.81 F.1.2.1).

    libjpeg fills what is missing with grey, so few bytes would become a picture of any size.
    """
    return image.format in {"JPEG", "MPO"} and 8 * len(content) * 64 < image.width * image.height


def _damage(content: bytes, message: str) -> Reason:
    """Tell a file that ends early from one that is broken inside."""
    if "truncated" in message.lower() or not _has_its_end(content):
        return Reason.TRUNCATED
    return Reason.DECODE_FAILED


def _has_its_end(content: bytes) -> bool:
    """Whether a file holds its format's last marker, or the bytes its header promises."""
    if content.startswith(b"\x89PNG"):
        return b"IEND" in content[-64:]
    if content.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in content[-64:]
    if content.startswith(b"GIF8"):
        return b"\x3b" in content[-16:]
    if content.startswith((b"RIFF", b"BM")):
        at, header = (4, 8) if content.startswith(b"RIFF") else (2, 0)
        return len(content) >= int.from_bytes(content[at : at + 4], "little") + header
    if content[4:8] == b"ftyp":
        return _holds_its_boxes(content)
    return True


def _holds_its_boxes(content: bytes) -> bool:
    """Whether the boxes of an AVIF or HEIF file (ISO 14496-12 4.2) end where the file does."""
    at = 0
    while 0 <= at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        if size < 8:  # noqa: PLR2004 - 0 is "to the end of the file", others are no box
            return size == 0
        at += size
    return at == len(content)


def _paint_upright(image: Image.Image, orientation: int, out: Pixels) -> None:
    """Write `image` into `out` as RGB, turned by its EXIF orientation, strip by strip."""
    height, width = out.shape[:2]
    to_rgb = _converter(image)
    for top, bottom in strips(height, width):
        first, last = (
            (height - bottom, height - top) if orientation in _FROM_THE_END else (top, bottom)
        )
        if orientation in _SWAPS_SIDES:
            part = image.crop((first, 0, last, image.height))
        else:
            part = image.crop((0, first, image.width, last))
        if orientation in _TRANSPOSES:
            part = part.transpose(_TRANSPOSES[orientation])
        out[top:bottom] = to_rgb(part)


def _converter(image: Image.Image) -> Callable[[Image.Image], Pixels]:
    """Return what turns a part of `image` into (h, w, 3) uint8 sRGB."""
    if image.mode.startswith(("I", "F")):
        low, high = _finite_range(image)
        return lambda part: _grey_to_rgb(part, low, high)
    if image.mode == "LAB":
        to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _SRGB, "LAB", "RGB")
        return lambda part: np.asarray(ImageCms.applyTransform(part, to_srgb), dtype=np.uint8)
    plain = _on_white if image.has_transparency_data else _plain_rgb
    profile = _profile_transform(image)
    if profile is None:
        return plain
    mode, transform = profile

    def through_profile(part: Image.Image) -> Pixels:
        if mode != "CMYK":
            part = Image.fromarray(plain(part)).convert(mode)
        return np.asarray(ImageCms.applyTransform(part, transform), dtype=np.uint8)

    return through_profile


def _profile_transform(
    image: Image.Image,
) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return the mode that the picture's ICC profile is for and the way from there to sRGB.

    None where there is no profile, where it is sRGB, or where it is broken or not for this
    picture: its plain values are then what most viewers show.
    """
    embedded = image.info.get("icc_profile")
    if not isinstance(embedded, bytes) or not 0 < len(embedded) <= _MAX_PROFILE_BYTES:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
        if "sRGB" in (profile.profile.profile_description or ""):
            return None
        mode = _PROFILE_MODES.get((profile.profile.xcolor_space.strip(), image.mode))
        if mode is None:
            return None
        return mode, ImageCms.buildTransform(profile, _SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _plain_rgb(part: Image.Image) -> Pixels:
    return np.asarray(part.convert("RGB"), dtype=np.uint8)


def _on_white(part: Image.Image) -> Pixels:
    """Composite on white, the paper most drawings with transparency were made for."""
    # Pillow knows no way from premultiplied grey but the one through plain grey.
    overlay = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
    white = Image.new("RGBA", overlay.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, overlay).convert("RGB"), dtype=np.uint8)


def _finite_range(image: Image.Image) -> tuple[float, float]:
    """Return the lowest and highest finite value.

    Scanners put 10, 12 or 14 bits into 16: the range of the type would leave them black.
    """
    low, high = np.inf, -np.inf
    for top, bottom in strips(image.height, image.width):
        values = np.asarray(image.crop((0, top, image.width, bottom)), dtype=np.float32)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _grey_to_rgb(part: Image.Image, low: float, high: float) -> Pixels:
    values = np.nan_to_num(np.asarray(part, dtype=np.float32), nan=low, posinf=high, neginf=low)
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    grey = scaled.clip(0, 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
