"""Valid files of every format the decoder reads, and small damage done to them."""

import io
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageCms
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from tests.decode import hostile, samples

# What lies are made of: lengths, counts, sizes and offsets at the ends of their ranges.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000)
_MAX_SEED_BYTES = 60_000
_MAX_FILE_BYTES = 300_000


def _photograph(format_name: str, mode: str = "RGB", **options: object) -> bytes:
    """A corner of a photograph in `mode`, with EXIF where the format has it."""
    with Image.open(io.BytesIO(samples.picture("astronaut.png"))) as image:
        part = image.crop((180, 60, 276, 156))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    out = io.BytesIO()
    part.convert(mode).save(out, format_name, exif=exif, **options)
    return out.getvalue()


def _animation(format_name: str) -> bytes:
    frames = [Image.fromarray(samples.noise(48, 48, channels=1 + 2 * n)) for n in (0, 1, 0)]
    out = io.BytesIO()
    frames[0].convert("RGB").save(
        out, format_name, save_all=True, append_images=[f.convert("RGB") for f in frames[1:]]
    )
    return out.getvalue()


def _in_dicom(syntax: str, frame: bytes, **attributes: object) -> bytes:
    grey = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    return hostile.encapsulated(syntax, frame, **grey, **attributes)


def seeds() -> dict[str, bytes]:
    """Return name → content. All are small, so that damage hits what is read."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    flat = samples.noise(64, 64, channels=1)
    made = {
        "png": _photograph("PNG", icc_profile=profile),
        "png palette": _photograph("PNG", "P"),
        "png 16 bits": samples.encode(hostile.GREY),
        "apng": _animation("PNG"),
        "jpeg": _photograph("JPEG", icc_profile=profile),
        "jpeg progressive": _photograph("JPEG", progressive=True),
        "jpeg cmyk": _photograph("JPEG", "CMYK"),
        "mpo": _animation("MPO"),
        "gif": _animation("GIF"),
        "bmp": _photograph("BMP"),
        "bmp palette": _photograph("BMP", "P"),
        "ppm": _photograph("PPM"),
        "pfm": samples.encode(flat.astype(np.float32), "PPM"),
        "webp": _photograph("WEBP", icc_profile=profile),
        "webp lossless": _photograph("WEBP", "RGBA", lossless=True),
        "webp moving": _animation("WEBP"),
        "avif": _photograph("AVIF"),
        "avif moving": _animation("AVIF"),
        "heic": samples.HEIC,
        **{
            f"tiff {packing}": _photograph("TIFF", compression=packing)
            for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd")
        },
        "tiff fax": _photograph("TIFF", "1", compression="group4"),
        "tiff lab": _photograph("TIFF", "LAB"),
        "tiff float": samples.encode(flat.astype(np.float32), "TIFF"),
        "tiff pages": _animation("TIFF"),
        "dicom": samples.grey_dicom(hostile.GREY),
        "dicom implicit": samples.bare_dicom(implicit=True, little=True),
        "dicom jpeg": _in_dicom(JPEGBaseline8Bit, samples.encode(flat, "JPEG")),
        "dicom jpeg 2000": _in_dicom(
            JPEG2000Lossless, samples.encode(flat, "JPEG2000", no_jp2=True)
        ),
        "dicom rle": samples.dicom("MR_small_RLE.dcm"),
    }
    wheel = {
        path.name: path.read_bytes()
        for path in sorted(samples.DICOM_FILES.glob("*.dcm"))
        if path.stat().st_size <= _MAX_SEED_BYTES
    }
    return made | wheel


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.randint(1, 8)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _overwrite(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    data[at : at + random.randint(1, 16)] = random.randbytes(random.randint(1, 16))


def _set_number(data: bytearray, random: Random) -> None:
    """Put an extreme number where one may have been, most often near the start."""
    size, number = random.choice((1, 2, 4, 8)), random.choice(_NUMBERS) + random.randint(-1, 1)
    raw = (number % (1 << 8 * size)).to_bytes(size, "little")
    at = random.randrange(min(len(data), random.choice((64, 512, len(data)))))
    data[at : at + size] = raw if random.random() < 0.5 else raw[::-1]


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def _remove(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.randint(1, 1 + len(data) // 8)]


def _repeat(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    part = data[at : at + random.randint(1, 512)]
    data[at:at] = part * random.choice((1, 2, 10, 100))


def _move(data: bytearray, random: Random) -> None:
    size = random.randint(1, 1 + len(data) // 8)
    at, to = random.randrange(len(data)), random.randrange(len(data))
    data[to : to + size] = data[at : at + size]


_DAMAGES: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip,
    _flip,
    _overwrite,
    _set_number,
    _set_number,
    _set_number,
    _cut,
    _remove,
    _repeat,
    _move,
)


def damaged(content: bytes, other: bytes, random: Random) -> bytes:
    """Return `content` with one to five damages; one in ten goes on as `other` in the middle."""
    data = bytearray(content)
    if random.random() < 0.1:
        at, to = random.randrange(len(data)), random.randrange(len(other))
        data[at:] = other[to:]
    for _ in range(random.randint(1, 5)):
        if data:
            random.choice(_DAMAGES)(data, random)
    return bytes(data[:_MAX_FILE_BYTES])
