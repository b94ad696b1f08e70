"""Nothing but pixels leaves: whatever a file carried beside them is gone."""

import io

import numpy as np
from PIL import Image, ImageCms

from tests.decode import samples
from workers.decode.sandbox import decode
from workers.deidentify.derivative import PREVIEW_SIDE, encode_preview, encode_thumbnail

SECRET = b"Jane Doe 1970-01-01"


def loaded_photograph() -> bytes:
    """A photograph with a place, a name in every corner metadata can hide in, and a tail."""
    exif = Image.Exif()
    exif[0x013B] = SECRET.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    out = io.BytesIO()
    with Image.open(samples.PICTURES / "rocket.jpg") as image:
        image.save(
            out,
            "JPEG",
            exif=exif,
            comment=SECRET,
            icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
            xmp=b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>",
        )
    return out.getvalue() + SECRET


def test_a_derivative_carries_no_metadata_and_no_tail() -> None:
    original = loaded_photograph()
    assert original.count(SECRET) >= 4

    pixels = decode(original).pixels
    for derivative in (encode_preview(pixels), encode_thumbnail(pixels)):
        with Image.open(io.BytesIO(derivative)) as image:
            assert not image.getexif()
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert SECRET not in derivative
        assert derivative.endswith(b"\xff\xd9")
        for marker in (b"Exif", b"http://ns.adobe.com", b"ICC_PROFILE", b"\xff\xfe"):
            assert marker not in derivative[:200]


def test_a_preview_has_the_size_and_colours_of_the_picture() -> None:
    pixels = decode(samples.picture("coffee.png")).pixels

    with Image.open(io.BytesIO(encode_preview(pixels))) as image:
        shown = np.asarray(image)

    assert shown.shape == pixels.shape
    assert np.abs(shown.astype(int) - pixels).mean() < 3


def test_a_very_large_preview_is_scaled_down_and_keeps_its_proportions() -> None:
    wide = np.zeros((500, PREVIEW_SIDE * 2, 3), np.uint8)

    with Image.open(io.BytesIO(encode_preview(wide))) as image:
        assert image.size == (PREVIEW_SIDE, 250)


def test_a_thumbnail_fits_its_side() -> None:
    with Image.open(io.BytesIO(encode_thumbnail(samples.noise(600, 300), side=96))) as image:
        assert image.size == (48, 96)
