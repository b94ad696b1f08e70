"""Photographs, scans and drawings come out as upright 8-bit RGB, as a viewer would show them."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from tests.decode import samples
from workers.decode import raster
from workers.decode.sandbox import decode

ASTRONAUT = samples.picture("astronaut.png")


def grey(pixels: npt.NDArray[np.uint8]) -> list[list[int]]:
    """The first channel, once it is seen that all three are one."""
    assert (pixels == pixels[..., :1]).all()
    return [[int(value) for value in row] for row in pixels[..., 0]]


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_each_accepted_format_is_told_by_its_content(format_name: str) -> None:
    with Image.open(io.BytesIO(ASTRONAUT)) as image:
        out = io.BytesIO()
        image.convert("RGB").save(out, format_name)

    decoded = decode(out.getvalue())

    assert decoded.media_type == raster.MEDIA_TYPES[format_name]
    assert decoded.pixels.shape == (512, 512, 3)
    assert decoded.pixels.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(orientation: int) -> None:
    lying = samples.noise(40, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(lying).save(out, "PNG", exif=exif)
    with Image.open(io.BytesIO(out.getvalue())) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))

    assert np.array_equal(decode(out.getvalue()).pixels, upright)


def test_a_large_picture_is_turned_upright_without_seams() -> None:
    gradient = np.add.outer(np.arange(1500), np.arange(2000)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(np.repeat(gradient[..., None], 3, axis=2)).save(out, "PNG", exif=exif)

    assert np.array_equal(decode(out.getvalue()).pixels[..., 0], np.rot90(gradient, -1))


def test_transparent_pixels_are_shown_on_white() -> None:
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[:, 8:] = (10, 20, 30, 255)

    pixels = decode(samples.encode(clear)).pixels

    assert (pixels[:, :8] == 255).all()
    assert (pixels[:, 8:] == (10, 20, 30)).all()


def test_a_transparent_palette_colour_is_shown_on_white() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([1, 2, 3, 200, 100, 50])
    out = io.BytesIO()
    image.save(out, "PNG", transparency=1)

    assert (decode(out.getvalue()).pixels == 255).all()


def test_twelve_bits_in_sixteen_are_shown_over_the_whole_range() -> None:
    ramp = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))

    shown = grey(decode(samples.encode(ramp)).pixels)

    assert (shown[0][0], shown[0][-1]) == (0, 255)


def test_floating_point_pictures_keep_their_finite_range() -> None:
    values = np.tile(np.linspace(-1, 1, 64, dtype=np.float32), (64, 1))
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf

    shown = grey(decode(samples.encode(values, "TIFF")).pixels)

    assert shown[0][:3] == [0, 255, 0]
    assert (shown[1][0], shown[1][-1]) == (0, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    with Image.open(io.BytesIO(ASTRONAUT)) as image:
        other = image.convert("L").convert("I").convert("I;16") if mode == "I;16" else None
        if mode == "LAB":
            other = Image.merge("LAB", image.convert("RGB").split())
        out = io.BytesIO()
        (other or image.convert(mode)).save(out, "TIFF")

    pixels = decode(out.getvalue()).pixels

    assert pixels.shape == (512, 512, 3)
    assert pixels.std() > 20


def test_of_several_frames_the_first_is_shown_and_all_are_counted() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])

    decoded = decode(out.getvalue())

    assert decoded.frames == 3
    assert (decoded.pixels == (255, 0, 0)).all()


def test_only_the_picture_of_a_polyglot_is_used() -> None:
    decoded = decode(ASTRONAUT + b"PK\x03\x04" + bytes(1000) + b"<script>")

    assert decoded.media_type == "image/png"


def test_a_very_large_photograph_has_half_its_pixels_a_side() -> None:
    steps = np.zeros((401, 65_001), np.uint8)
    steps[:, 30_000:] = 200

    small = decode(samples.encode(steps))
    half = decode(samples.encode(steps[:300]))

    assert (small.pixels.shape, small.reduced) == ((200, 32_500, 3), 2)
    assert (small.pixels[0, 14_999, 0], small.pixels[0, 15_000, 0]) == (0, 200)
    assert (half.pixels.shape, half.reduced) == ((300, 65_001, 3), 1)


def test_no_object_is_looked_at_reduced() -> None:
    assert decode(samples.grey_dicom(np.zeros((5_100, 5_000), np.uint16))).reduced == 1
