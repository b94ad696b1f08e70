"""Known values: what a file says a colour is, is what comes out, computed here another way."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from tests.decode import hostile, samples
from workers.decode.sandbox import decode

SIDE = 16


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def flat(mode: str, value: tuple[int, ...] | float) -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), value)


def colour(content: bytes) -> tuple[int, ...]:
    """The one colour of a flat picture."""
    pixels = decode(content).pixels
    assert (pixels == pixels[0, 0]).all()
    return tuple(int(value) for value in pixels[0, 0])


@pytest.mark.parametrize("format_name", ["TIFF", "JPEG"])
def test_inks_are_subtracted_and_adobes_inversion_is_undone(format_name: str) -> None:
    inks = (51, 102, 0, 51)
    # Pillow writes CMYK JPEG inverted with an APP14 marker, as Adobe does.
    content = saved(flat("CMYK", inks), format_name, quality=100)
    expected = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]

    assert colour(content) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled_and_not_cut(format_name: str, order: str) -> None:
    values = np.tile(np.array([0, 256, 32_768, 65_535] * 4, order), (SIDE, 1))
    mode = "I;16B" if order == ">u2" and format_name == "TIFF" else "I;16"
    raw = values.tobytes() if mode == "I;16B" else values.astype("<u2").tobytes()
    content = saved(Image.frombytes(mode, (SIDE, SIDE), raw), format_name)

    assert decode(content).pixels[0, :4, 0].tolist() == [0, 1, 128, 255]


def test_floats_are_spread_from_the_lowest_to_the_highest() -> None:
    values = np.tile(np.array([-2, 0, 1, 2] * 4, np.float32), (SIDE, 1))

    assert decode(saved(Image.fromarray(values), "TIFF")).pixels[0, :4, 1].tolist() == [
        0,
        128,
        191,
        255,
    ]


def test_half_clear_grey_and_palette_colours_lie_on_white() -> None:
    assert colour(saved(flat("LA", (100, 51)), "PNG")) == (224, 224, 224)
    palette = flat("P", 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    half = bytes([255, 51])
    on_white = tuple(round((51 * ink + 204 * 255) / 255) for ink in (200, 100, 50))
    assert colour(saved(palette, "PNG", transparency=half)) == pytest.approx(on_white, abs=1)
    assert colour(saved(palette.convert("PA"), "TIFF")) == (200, 100, 50)


def matrix_profile(order: str) -> bytes:
    """An sRGB profile whose primaries are renamed: order "GRB" swaps red and green."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    names = {b"rXYZ": order.index("R"), b"gXYZ": order.index("G"), b"bXYZ": order.index("B")}
    offsets = {name: raw.index(name) for name in names}
    for name, index in names.items():
        raw[offsets[name] : offsets[name] + 4] = (b"rXYZ", b"gXYZ", b"bXYZ")[index]
    # A profile that says it is sRGB is taken at its word.
    return bytes(raw.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be")))


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_profile_with_swapped_primaries_swaps_the_colours(format_name: str) -> None:
    image = flat("RGB", (200, 60, 90))
    options = {"lossless": True} if format_name == "WEBP" else {"quality": 100}
    content = saved(image, format_name, icc_profile=matrix_profile("GRB"), **options)

    assert colour(content) == pytest.approx((60, 200, 90), abs=4)


def test_a_profile_with_other_primaries_is_computed_as_the_standard_says() -> None:
    """Colours to XYZ by the profile's matrix, to linear sRGB by the inverse of sRGB's own."""
    raw = bytearray(matrix_profile("RGB"))
    narrow = np.zeros((3, 3))
    own = np.zeros((3, 3))
    for column, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        entry = raw.index(name)
        at = int.from_bytes(raw[entry + 4 : entry + 8], "big") + 8
        own[:, column] = np.frombuffer(bytes(raw[at : at + 12]), ">i4") / 65_536
    mix = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    narrow = own @ mix
    for column, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        entry = raw.index(name)
        at = int.from_bytes(raw[entry + 4 : entry + 8], "big") + 8
        raw[at : at + 12] = np.round(narrow[:, column] * 65_536).astype(">i4").tobytes()
    value = np.array([220, 40, 120])
    linear = mix @ linear_srgb(value)
    content = saved(flat("RGB", tuple(value.tolist())), "PNG", icc_profile=bytes(raw))

    assert colour(content) == pytest.approx(tuple(encoded_srgb(linear)), abs=2)


def linear_srgb(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """IEC 61966-2-1, 8 bits to light."""
    part = values / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def encoded_srgb(light: npt.NDArray[np.float64]) -> list[float]:
    part = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return [float(value) for value in 255 * part]


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        hostile.PNG,
        matrix_profile("RGB")[:200],
        b"\xff" * 4 + matrix_profile("RGB")[4:],
        matrix_profile("RGB").replace(b"RGB ", b"CMYK"),
        matrix_profile("RGB") + bytes(9 << 20),
    ],
    ids=["words", "noise", "cut", "length", "another space", "9 MB"],
)
def test_a_profile_that_cannot_be_right_changes_nothing(profile: bytes) -> None:
    content = saved(flat("RGB", (200, 60, 90)), "TIFF", icc_profile=profile)

    assert colour(content) == (200, 60, 90)


@pytest.mark.parametrize(
    ("mode", "stored", "space"),
    [
        ("L", 90, b"RGB "),
        ("CMYK", (55, 195, 165, 0), b"RGB "),
        ("RGB", (200, 60, 90), b"GRAY"),
        ("RGB", (200, 60, 90), b"Lab "),
    ],
)
def test_a_profile_for_other_pictures_changes_nothing(
    mode: str, stored: int | tuple[int, ...], space: bytes
) -> None:
    """Its red and green are swapped, so that it would show if it were used."""
    profile = matrix_profile("GRB").replace(b"RGB ", space)

    plain = colour(saved(flat(mode, stored), "TIFF"))

    assert colour(saved(flat(mode, stored), "TIFF", icc_profile=profile)) == plain


def test_avif_and_heic_give_their_colours_back() -> None:
    heic = decode(samples.HEIC).pixels
    assert heic[16, 16].tolist() == pytest.approx((200, 30, 40), abs=6)
    assert heic[16, 48].tolist() == pytest.approx((10, 120, 220), abs=6)
    assert colour(saved(flat("RGB", (200, 30, 40)), "AVIF", quality=100)) == pytest.approx(
        (200, 30, 40), abs=3
    )


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_marked_corner_is_where_exif_says(format_name: str, orientation: int) -> None:
    """EXIF 2.32 table 6: where row 0 and column 0 of the stored picture are, seen upright."""
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(stored), format_name, exif=exif, quality=95)

    pixels = decode(content).pixels

    top = orientation in {1, 2, 5, 6}
    left = orientation in {1, 4, 5, 8}
    assert pixels.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    row, column = (0 if top else -1), (0 if left else -1)
    assert pixels[row, column].min() > 230
    assert pixels[row, -1 - column].max() < 25
    assert pixels[-1 - row, column].max() < 25
