"""Whatever a picture's file carries beside its pixels, and however it doubles, stays behind."""

import io
import zipfile
from pathlib import Path

import pytest
from django.core.management import call_command
from PIL import Image, PngImagePlugin

from tests.decode import samples
from workers.decode.sandbox import decode
from workers.deidentify.derivative import encode_preview, encode_thumbnail

SECRET = b"Jane Doe 1970-01-01"


def saved(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(samples.noise(64, 64)).save(out, kind, **options)
    return out.getvalue()


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x010E] = SECRET.decode()
    made.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0)})
    return made


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET.decode())
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    return info


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("patient.txt", SECRET)
    return out.getvalue()


def second() -> Image.Image:
    return Image.fromarray(samples.noise(48, 48))


def photoshop(content: bytes) -> bytes:
    """Put an IPTC block (APP13) behind a JPEG's first marker."""
    block = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + SECRET
    return content[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + content[2:]


HTML = b"<html><script>/*" + SECRET + b"*/</script></html>"
CARRIERS = {
    "exif and place": saved("JPEG", exif=exif()),
    "xmp": saved("JPEG", xmp=b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"),
    "iptc": photoshop(saved("JPEG")),
    "comment": saved("JPEG", comment=SECRET),
    "profile": saved("PNG", icc_profile=b"\0" * 128 + SECRET),
    "png texts": saved("PNG", pnginfo=texts()),
    "tiff tags": saved("TIFF", tiffinfo={270: SECRET.decode()}),
    "second page": saved("TIFF", save_all=True, append_images=[second()]) + SECRET,
    "second frame": saved("GIF", save_all=True, append_images=[second()], comment=SECRET),
    "webp exif": saved("WEBP", exif=exif().tobytes()),
    "jpeg and zip": saved("JPEG") + zipped(),
    "png and page": saved("PNG") + HTML,
    "gif and script": saved("GIF") + b";/*" + SECRET + b"*/",
    "jpeg after jpeg": saved("JPEG") + saved("JPEG", comment=SECRET),
}


@pytest.mark.parametrize("carrier", CARRIERS.values(), ids=CARRIERS.keys())
def test_a_derivative_is_one_plain_picture(carrier: bytes) -> None:
    pixels = decode(carrier).pixels

    for derivative in (encode_preview(pixels), encode_thumbnail(pixels)):
        assert_plain(derivative)


def test_what_the_command_writes_is_plain_too(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "both.jpg").write_bytes(CARRIERS["jpeg and zip"] + SECRET)

    call_command("deidentify", source, output=tmp_path / "out", profile="photographs")

    (written,) = (tmp_path / "out").iterdir()
    assert_plain(written.read_bytes())


def assert_plain(derivative: bytes) -> None:
    assert SECRET not in derivative
    assert b"PK\x03\x04" not in derivative
    assert derivative.count(b"\xff\xd8\xff") == 1
    assert derivative.endswith(b"\xff\xd9")
    with Image.open(io.BytesIO(derivative)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("JPEG", 1)
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
