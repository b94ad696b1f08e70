"""What a file is, from its first bytes alone. Names and declared types are not asked."""

from typing import Final

HEAD_BYTES: Final = 4096

# Of the pictures, not the films, that ISO 23008-12 names; `mif1` and `msf1` leave the codec open.
HEIF_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")

SIGNATURES: Final[list[tuple[bytes, int, str]]] = [
    # First: the preamble before it is free, and scanners put a TIFF's beginning there.
    (b"DICM", 128, "application/dicom"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"GIF87a", 0, "image/gif"),
    (b"GIF89a", 0, "image/gif"),
    (b"BM", 0, "image/bmp"),
    (b"II*\x00", 0, "image/tiff"),
    (b"MM\x00*", 0, "image/tiff"),
    (b"II+\x00", 0, "image/tiff"),
    (b"MM\x00+", 0, "image/tiff"),
    (b"WEBP", 8, "image/webp"),
    *(
        (b"P%c%c" % (kind, space), 0, "image/x-portable-anymap")
        for kind in b"123456f"
        for space in b"\t\n\r #"
    ),
    *((b"ftyp" + brand, 4, "image/avif") for brand in (b"avif", b"avis")),
    *((b"ftyp" + brand, 4, "image/heif") for brand in HEIF_BRANDS),
]
ZIP: Final = "application/zip"

# The first box of an MP4 or MOV; the brands of still pictures are no video (ISO/IEC 23008-12).
MP4_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
STILL_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}
)
MATROSKA: Final = b"\x1a\x45\xdf\xa3"

# DICOM without its preamble begins with a data element of group 0002 or 0008, in either byte
# order, explicit or implicit (PS3.5 section 7.1).
BARE_DICOM_GROUPS: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


def sniff(head: bytes) -> str | None:
    """The media type of a file that begins with `head`, or None where it is nothing we read.

    A promise of nothing more than "worth decoding": the sandboxed decoder has the last word.
    Stills come before films: both begin with an `ftyp` box.
    """
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        return ZIP
    for signature, offset, media_type in SIGNATURES:
        if head.startswith(signature, offset):
            return media_type
    if head[:2] in BARE_DICOM_GROUPS and len(head) > 8 and b"\0" in head[2:8]:  # noqa: PLR2004
        return "application/dicom"
    return sniff_video(head)


def is_still(head: bytes) -> bool:
    """Whether a file that begins with `head` may be a picture and no film."""
    media_type = sniff(head)
    return media_type not in (None, ZIP) and sniff_video(head) is None


def sniff_video(head: bytes) -> str | None:
    """The media type of a video that begins with `head`, or None. Matroska counts as WebM."""
    if head[4:8] in MP4_BOXES and not (head[4:8] == b"ftyp" and head[8:12] in STILL_BRANDS):
        return "video/mp4"
    if head.startswith(MATROSKA):
        return "video/webm"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "video/x-msvideo"
    return None
