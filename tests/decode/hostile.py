"""Files that mean harm, or look as if they did: few bytes that unpack to many, that lie about
themselves, that run in circles. All are made here; none is stored."""

import io
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.decode import samples

SMALL = samples.noise(64, 64)
GREY = np.tile(np.arange(64, dtype=np.uint16) * 64, (64, 1))
PNG = samples.encode(SMALL)
JPEG = samples.encode(SMALL, "JPEG")
GIF = samples.encode(SMALL, "GIF")
BMP = samples.encode(SMALL, "BMP")
TIFF = samples.encode(SMALL, "TIFF")
WEBP = samples.encode(SMALL, "WEBP")
AVIF = samples.encode(SMALL, "AVIF")
PNG_MARK = b"\x89PNG\r\n\x1a\n"


def packed_zeros(size: int, *, bits: int = zlib.MAX_WBITS) -> bytes:
    """Deflated zeros, at least `size` of them. A block is packed once and then repeated."""
    block, packer = bytes(1 << 20), zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    times = -(-size // len(block))
    body = packed * times + packer.flush()
    if bits < 0:
        return body
    # Adler-32 (RFC 1950) of n zeros.
    return b"\x78\xda" + body + struct.pack(">HH", (times << 20) % 65_521, 1)


PACKED = packed_zeros(256 << 20)


def png_chunk(name: bytes, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return struct.pack(">I", size) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    *chunks: tuple[bytes, bytes],
    size: tuple[int, int] = (64, 64),
    depth: int = 8,
    colour: int = 2,
    interlaced: int = 0,
) -> bytes:
    """A PNG of the given chunks; IDAT and IEND come last unless they are among them."""
    header = struct.pack(">IIBBBBB", size[0], size[1], depth, colour, 0, 0, interlaced)
    rest = [] if any(name == b"IDAT" for name, _ in chunks) else [(b"IDAT", PACKED)]
    return PNG_MARK + b"".join(
        png_chunk(name, body) for name, body in ((b"IHDR", header), *chunks, *rest, (b"IEND", b""))
    )


def jpeg_with(marker: int, body: bytes, times: int = 1) -> bytes:
    """JPEG with segments put behind its first marker."""
    segment = struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
    return JPEG[:2] + segment * times + JPEG[2:]


def jpeg_of_size(height: int, width: int, *, progressive: bool = False) -> bytes:
    """A JPEG of 64×64 pixels that claims another size."""
    file = bytearray(samples.encode(SMALL, "JPEG", progressive=progressive))
    at = file.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    file[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(file)


def tiff(entries: dict[int, tuple[int, int, int]], tail: bytes = b"", next_ifd: int = 0) -> bytes:
    """A TIFF of one directory: tag → type, count, value or offset. `tail` begins at byte 512."""
    basic = {
        256: (4, 1, 64),
        257: (4, 1, 64),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 512),
        277: (3, 1, 1),
        278: (4, 1, 64),
        279: (4, 1, 4096),
    } | entries
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(basic.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(basic)) + body + struct.pack("<I", next_ifd)
    return head.ljust(512, b"\0") + (tail or bytes(4096))


def exif(entries: bytes, count: int, next_ifd: int = 0) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, count) + entries + struct.pack("<I", next_ifd)


def gif_frames(side: int, frames: int) -> bytes:
    """One flat frame, repeated."""
    flat = samples.encode(np.zeros((side, side), np.uint8), "GIF")
    start = flat.index(b"\x2c", 13 + 3 * 2 ** ((flat[10] & 7) + 1))
    return flat[:start] + flat[start:-1] * frames + b"\x3b"


def gif_tiny_frames(frames: int) -> bytes:
    frame = b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x4c\x01\0"
    return b"GIF89a\x40\0\x40\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b"\x3b"


def bmp(width: int, height: int, *, bits: int = 8, packing: int = 0, body: bytes = b"") -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, 0, 0, 0, 256, 0)
    palette = bytes(1024)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2)
        for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


def nested(depth: int) -> bytes:
    """A DICOM sequence in a sequence in a sequence, each of undefined length."""
    start = b"\x40\0\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    return dicom_elements(start * depth)


def dicom_elements(elements: bytes) -> bytes:
    """A data set of explicit little-endian elements behind a preamble and a file meta group."""
    syntax = b"1.2.840.10008.1.2.1\0"
    meta = b"\x02\0\x10\0UI" + struct.pack("<H", len(syntax)) + syntax
    return bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + struct.pack("<I", len(meta)) + meta + elements


def encapsulated(syntax: str, *frames: bytes, **attributes: object) -> bytes:
    """A CT slice of 64×64 whose pixels are in `frames`, however wrong they are."""
    dataset = pydicom.dcmread(io.BytesIO(samples.grey_dicom(GREY)))
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    for name, value in attributes.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def deflated_bomb() -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(samples.grey_dicom(GREY)))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    out = io.BytesIO()
    dataset.save_as(out)
    whole = out.getvalue()
    at = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    return whole[:at] + packed_zeros(1 << 30, bits=-zlib.MAX_WBITS)


def jpeg2000(height: int, width: int) -> bytes:
    """A JPEG 2000 of 64×64 pixels whose header claims another size, in one tile."""
    file = bytearray(samples.encode(GREY.astype(np.uint8), "JPEG2000", no_jp2=True))
    at = file.index(b"\xff\x51") + 6
    file[at : at + 8] = struct.pack(">II", width, height)
    file[at + 16 : at + 24] = struct.pack(">II", width, height)
    return bytes(file)


def other_format(name: str) -> bytes:
    return samples.encode(SMALL, name)


def grey_with(keyword: str, value: object) -> bytes:
    return samples.grey_dicom(GREY, **{keyword: value})


FILES: dict[str, Callable[[], bytes]] = {
    "one byte": lambda: b"\xff",
    "100 MB of zeros": lambda: bytes(100 << 20),
    "100 MB of zeros behind a JPEG's first bytes": lambda: b"\xff\xd8\xff" + bytes(100 << 20),
    "100 MB behind a DICOM mark": lambda: dicom_elements(bytes(100 << 20)),
    # PNG
    "png: 22 KB that are 176 megapixels": lambda: png(
        (b"IDAT", packed_zeros(22 << 20)), size=(14_000, 12_600), depth=1, colour=0
    ),
    "png: 869 MB of one bit": lambda: png(
        (b"IDAT", packed_zeros(109 << 20)), size=(29_500, 29_500), depth=1, colour=0
    ),
    "png: black and white within the limit": lambda: png(
        (b"IDAT", packed_zeros(13 << 20)), size=(9_990, 9_990), depth=1, colour=0
    ),
    "png: colour, 1.4 GB": lambda: png((b"IDAT", packed_zeros(1400 << 20)), size=(21_600, 21_600)),
    "png: colour beyond the memory": lambda: png(size=(9_000, 9_000)),
    "png: interlaced bomb": lambda: png(size=(8_000, 8_000), interlaced=1),
    "png: 16 bits": lambda: png(size=(7_000, 7_000), depth=16),
    "png: packed pixels for a small picture": png,
    "png: packed comment": lambda: png((b"zTXt", b"Comment\0\0" + PACKED)),
    "png: packed comments": lambda: png(*[(b"zTXt", b"Comment\0\0" + PACKED)] * 20),
    "png: packed text": lambda: png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED)),
    "png: packed profile": lambda: png((b"iCCP", b"icc\0\0" + PACKED)),
    "png: packed text behind the pixels": lambda: png(
        (b"IDAT", packed_zeros(1 << 20)), (b"zTXt", b"Comment\0\0" + PACKED)
    ),
    "png: 200,000 chunks": lambda: png(*[(b"tEXt", b"a\0b")] * 200_000),
    "png: 0 × 0": lambda: png(size=(0, 0)),
    "png: -1 × -1": lambda: png(size=(0xFFFFFFFF, 0xFFFFFFFF)),
    "png: 2,147,483,647 × 1": lambda: png(size=(0x7FFFFFFF, 1)),
    "png: 6,000,000 × 16": lambda: png(size=(6_000_000, 16), colour=0),
    "png: 16 × 6,000,000": lambda: png(size=(16, 6_000_000), colour=0),
    "png: depth 77": lambda: png(depth=77),
    "png: palette without one": lambda: png(colour=3),
    "png: palette of 100,000": lambda: png((b"PLTE", bytes(300_000)), colour=3),
    "png: transparency too long": lambda: png(
        (b"PLTE", b"abc"), (b"tRNS", bytes(60_000)), colour=3
    ),
    "png: no pixels": lambda: png((b"IDAT", b"")),
    "png: chunk beyond the end": lambda: PNG[:33] + png_chunk(b"IDAT", bytes(9), 0xFFFFFFF0),
    "png: chunk of negative length": lambda: PNG[:33] + png_chunk(b"tEXt", bytes(9), 0xFFFFFFFF),
    "png: a thousand headers": lambda: PNG[:8] + PNG[8:33] * 1000 + PNG[33:],
    "apng: 4 billion frames": lambda: png(
        (b"acTL", struct.pack(">II", 0xFFFFFFFF, 0)), (b"IDAT", packed_zeros(1 << 20))
    ),
    "apng: 9,999 frames that are not there": lambda: png(
        (b"acTL", struct.pack(">II", 9_999, 0)),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 1, 0, 0)),
    ),
    "apng: a frame outside": lambda: png(
        (b"acTL", struct.pack(">II", 2, 0)),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, 64_000, 64_000, 9, 9, 1, 1, 2, 1)),
    ),
    # JPEG
    "jpeg: many scans": lambda: samples.progressive_jpeg_with_many_scans(6_000, 500),
    "jpeg: 65,535 × 65,535": lambda: jpeg_of_size(65_535, 65_535),
    "jpeg: 0 lines": lambda: jpeg_of_size(0, 64),
    "jpeg: few bytes for 60 megapixels": lambda: jpeg_of_size(7_000, 8_500),
    "jpeg: few bytes for 60 progressive megapixels": lambda: jpeg_of_size(
        7_000, 8_500, progressive=True
    ),
    "jpeg: 20,000 comments": lambda: jpeg_with(0xFE, bytes(100), 20_000),
    "jpeg: profile in 255 parts, most missing": lambda: jpeg_with(
        0xE2, b"ICC_PROFILE\0\x07\xff" + bytes(60_000), 60
    ),
    "jpeg: profile of noise": lambda: jpeg_with(0xE2, b"ICC_PROFILE\0\x01\x01" + PNG[:9_000]),
    "jpeg: EXIF directory that is its own successor": lambda: jpeg_with(
        0xE1, exif(struct.pack("<HHII", 0x0112, 3, 1, 6), 1, next_ifd=8)
    ),
    "jpeg: EXIF pointing at itself": lambda: jpeg_with(
        0xE1,
        exif(struct.pack("<HHIIHHII", 0x8769, 4, 1, 8, 0xA005, 4, 1, 8), 2, next_ifd=8),
    ),
    "jpeg: EXIF of 4 billion values": lambda: jpeg_with(
        0xE1, exif(struct.pack("<HHII", 0x0112, 12, 0xFFFFFFFF, 8), 1)
    ),
    "jpeg: orientation 9,999": lambda: jpeg_with(
        0xE1, exif(struct.pack("<HHII", 0x0112, 3, 1, 9_999), 1)
    ),
    "jpeg: orientation of many kinds": lambda: jpeg_with(
        0xE1, exif(struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0"), 1)
    ),
    "jpeg: second picture beyond the end": lambda: jpeg_with(
        0xE2,
        b"MPF\0II*\0"
        + struct.pack("<IH", 8, 2)
        + struct.pack("<HHII", 0xB001, 4, 1, 0x7FFFFFFF)
        + struct.pack("<HHIII", 0xB002, 7, 0x7FFFFFF0, 50, 0),
    ),
    "jpeg: tables of noise": lambda: jpeg_with(0xC4, PNG[:400]),
    "jpeg: quantised by nothing": lambda: JPEG.replace(b"\xff\xdb", b"\xff\xfe"),
    "jpeg: one start after the other": lambda: b"\xff\xd8" * 100_000 + JPEG,
    "jpeg: fill bytes": lambda: JPEG[:2] + b"\xff" * 20_000_000 + JPEG[2:],
    # GIF
    "gif: 300 frames of 4,000 × 4,000": lambda: gif_frames(4_000, 300),
    "gif: 9,000 small frames": lambda: gif_tiny_frames(9_000),
    "gif: a million small frames": lambda: gif_tiny_frames(1_000_000),
    "gif: canvas of 65,535²": lambda: GIF[:6] + b"\xff" * 4 + GIF[10:],
    "gif: a frame outside": lambda: gif_tiny_frames(1).replace(
        b"\x2c\0\0\0\0\x01\0\x01\0", b"\x2c\xf0\xff\xf0\xff\xff\xff\xff\xff"
    ),
    "gif: codes of 255 bits": lambda: gif_tiny_frames(1).replace(b"\x02\x02\x4c", b"\xff\x02\x4c"),
    "gif: no frame": lambda: gif_tiny_frames(0),
    "gif: endless comment": lambda: gif_tiny_frames(0)[:-1] + b"\x21\xfe" + b"\xff" * 5_000_000,
    # TIFF
    "tiff: a directory that is its own successor": lambda: tiff({}, next_ifd=8),
    "tiff: two directories in a circle": lambda: tiff(
        {}, tail=struct.pack("<HI", 0, 8) + bytes(4090), next_ifd=512
    ),
    "tiff: 20,000 directories": lambda: (
        tiff({}, next_ifd=4608)
        + b"".join(struct.pack("<HI", 0, 4608 + 6 * n) for n in range(1, 20_000))
    ),
    "tiff: 4 billion strips": lambda: tiff({273: (4, 0xFFFFFFFF, 512), 279: (4, 0xFFFFFFFF, 512)}),
    "tiff: a strip beyond the end": lambda: tiff({273: (4, 1, 0x7FFFFFFF)}),
    "tiff: a strip of 4 GB": lambda: tiff({279: (4, 1, 0xFFFFFFFF)}),
    "tiff: tiles of 1 × 1": lambda: tiff(
        {256: (4, 1, 9_000), 257: (4, 1, 9_000), 322: (4, 1, 1), 323: (4, 1, 1), 324: (4, 1, 512)}
    ),
    "tiff: a tile of 4 billion": lambda: tiff(
        {322: (4, 1, 0xFFFFFFF0), 323: (4, 1, 0xFFFFFFF0), 324: (4, 1, 512), 325: (4, 1, 4096)}
    ),
    "tiff: 65,535 samples": lambda: tiff({277: (3, 1, 65_535)}),
    "tiff: 255 bits": lambda: tiff({258: (3, 1, 255)}),
    "tiff: 4,294,967,295 wide": lambda: tiff({256: (4, 1, 0xFFFFFFFF)}),
    "tiff: width of a string": lambda: tiff({256: (2, 4, 0x41414141)}),
    "tiff: no strips": lambda: tiff({273: (4, 0, 0), 279: (4, 0, 0)}),
    "tiff: deflate bomb": lambda: tiff(
        {256: (4, 1, 9_900), 257: (4, 1, 9_900), 259: (3, 1, 8), 278: (4, 1, 9_900)}
        | {279: (4, 1, len(PACKED))},
        PACKED,
    ),
    "tiff: LZW of noise": lambda: tiff({259: (3, 1, 5)}, PNG[:4096]),
    "tiff: JPEG of noise": lambda: tiff({259: (3, 1, 7)}, PNG[:4096]),
    "tiff: fax of noise": lambda: tiff({259: (3, 1, 4), 258: (3, 1, 1)}, PNG[:4096]),
    "tiff: fax of 90 megapixels": lambda: tiff(
        {256: (4, 1, 9_500), 257: (4, 1, 9_500), 259: (3, 1, 4), 258: (3, 1, 1)}
        | {278: (4, 1, 9_500)},
        bytes(4096),
    ),
    "tiff: unknown packing": lambda: tiff({259: (3, 1, 50_002)}),
    "tiff: predictor 3 of bytes": lambda: tiff({259: (3, 1, 8), 317: (3, 1, 3)}, PACKED),
    "tiff: EXIF in a circle": lambda: tiff({34665: (4, 1, 8), 34853: (4, 1, 8), 330: (4, 1, 8)}),
    "bigtiff: offsets of 64 bits": lambda: b"II+\0\x08\0\0\0" + b"\xff" * 200,
    # BMP, PNM, WebP, AVIF
    "bmp: run of nothing": lambda: bmp(9_000, 9_000, packing=1, body=b"\0\1"),
    "bmp: jumps": lambda: bmp(9_000, 9_000, packing=1, body=b"\0\2\xff\xff" * 100_000),
    "bmp: runs": lambda: bmp(9_000, 9_000, packing=1, body=b"\xff\1" * 400_000),
    "bmp: empty lines": lambda: bmp(9_000, 9_000, packing=1, body=b"\0\0" * 1_000_000),
    "bmp: upside down and endless": lambda: bmp(64, -0x7FFFFFFF),
    "bmp: -64 wide": lambda: bmp(-64, 64, body=bytes(4096)),
    "bmp: 0 × 0": lambda: bmp(0, 0),
    "bmp: 3 bits": lambda: bmp(64, 64, bits=3, body=bytes(4096)),
    "bmp: packing 99": lambda: bmp(64, 64, packing=99),
    "bmp: few bytes for 90 megapixels": lambda: bmp(9_500, 9_500),
    "bmp: header of 4 GB": lambda: (
        b"BM" + bytes(8) + struct.pack("<II", 54, 0xFFFFFFFF) + bytes(99)
    ),
    "pnm: digits without end": lambda: b"P2\n" + b"9" * 5_000_000,
    "pnm: comment without end": lambda: b"P6\n#" + b"x" * 5_000_000,
    "pnm: 99,999,999 × 99,999,999": lambda: b"P6 99999999 99999999 255\n" + bytes(99),
    "pnm: -64 × -64": lambda: b"P6 -64 -64 255\n" + bytes(12_288),
    "pnm: brightest is 0": lambda: b"P5 64 64 0\n" + bytes(4096),
    "pnm: words for 90 megapixels": lambda: b"P3 9500 9500 255\n" + b"1 " * 2_000_000,
    "pfm: scale of nothing": lambda: b"Pf 64 64 nan\n" + bytes(16_384),
    "webp: canvas of 16 million": lambda: riff((b"VP8X", b"\x02\0\0\0" + b"\xff" * 6)),
    "webp: animation without frames": lambda: riff(
        (b"VP8X", b"\x02\0\0\0\x3f\0\0\x3f\0\0"), (b"ANIM", bytes(6))
    ),
    "webp: profile of noise": lambda: riff(
        (b"VP8X", b"\x20\0\0\0\x3f\0\0\x3f\0\0"), (b"ICCP", PNG[:999]), (b"VP8 ", WEBP[20:])
    ),
    "webp: lossless bomb": lambda: samples.encode(
        np.zeros((4_000, 4_000), np.uint8), "WEBP", lossless=True
    ),
    "heic: 65,535 × 65,535": lambda: samples.HEIC.replace(
        struct.pack(">II", 64, 64), struct.pack(">II", 65_535, 65_535)
    ),
    "heic: another size": lambda: samples.HEIC.replace(
        struct.pack(">II", 64, 64), struct.pack(">II", 7_000, 7_000)
    ),
    "heic: noise": lambda: samples.HEIC[:-120] + PNG,
    "avif: noise": lambda: AVIF[:400] + PNG,
    "avif: boxes in boxes": lambda: (
        box(b"ftyp", b"avif\0\0\0\0avifmif1")
        + b"".join(struct.pack(">I4s", 900_000 - 8 * n, b"meta") for n in range(100_000))
    ),
    "avif: no item": lambda: box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(b"meta", bytes(40)),
    "avif: another size": lambda: AVIF.replace(
        struct.pack(">II", 64, 64), struct.pack(">II", 65_535, 65_535)
    ),
    "heic: brand only": lambda: box(b"ftyp", b"heic\0\0\0\0heicmif1") + box(b"meta", bytes(400)),
    # What we do not read at all
    **{
        f"{name}: not read here": partial(other_format, name)
        for name in ("ICO", "ICNS", "EPS", "SGI", "TGA", "PCX", "DDS", "JPEG2000", "PDF")
    },
    "eps: a program": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n"
        b"%%EndComments\n(/etc/passwd) (r) file 1000 string readstring pop ==\nshowpage\n"
    ),
    "psd: 4 billion layers": lambda: (
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + b"\xff" * 400
    ),
    "fli: frames of nothing": lambda: (
        struct.pack("<IHHHHHH", 128, 0xAF11, 9999, 64, 64, 8, 3) + bytes(200)
    ),
    "svg: entities in entities": lambda: (
        b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaa">'
        + b"".join(b'<!ENTITY b%d "&a;&a;&a;&a;">' % n for n in range(99))
        + b']><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    ),
    "wmf: a placeable one": lambda: b"\xd7\xcd\xc6\x9a\0\0" + bytes(400),
    "pdf: with a picture inside": lambda: b"%PDF-1.7\n" + JPEG,
    "xbm: C source": lambda: b"#define im_width 64\n#define im_height 64\nstatic char x[]={0x00};",
    "zip: 256 MB": lambda: b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(20) + PACKED,
    "gzip: 256 MB": lambda: b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + PACKED,
    "program": lambda: b"\x7fELF" + bytes(4096),
    "page before a picture": lambda: b"<html><script>1</script>" + PNG,
    # Two things at once: the picture is taken, the rest is not
    "picture and archive": lambda: PNG + b"PK\x03\x04" + bytes(4096),
    "picture and page": lambda: JPEG + b"<html><script>alert(1)</script></html>",
    "picture with a page in its comment": lambda: jpeg_with(0xFE, b"<script>alert(1)</script>"),
    "DICOM that is a TIFF, too": lambda: tiff({})[:128] + samples.grey_dicom(GREY)[128:],
    "DICOM that is a program, too": lambda: b"MZ" + bytes(126) + samples.grey_dicom(GREY)[128:],
    # DICOM
    "dicom: 65,535 × 65,535": lambda: samples.grey_dicom(GREY, Rows=65_535, Columns=65_535),
    "dicom: 4 billion frames": lambda: samples.grey_dicom(GREY, NumberOfFrames=2**31 - 1),
    "dicom: -7 frames": lambda: samples.grey_dicom(GREY, NumberOfFrames=-7),
    "dicom: 20,000 sequences deep": lambda: nested(20_000),
    "dicom: 900 sequences deep": lambda: nested(900),
    "dicom: deflated bomb": deflated_bomb,
    "dicom: deflated noise": lambda: deflated_bomb()[:400] + PNG,
    "dicom: nothing but a mark": lambda: bytes(128) + b"DICM",
    "dicom: an element of 4 GB": lambda: dicom_elements(
        b"\x08\0\x60\0OB\0\0\xf0\xff\xff\xff" + bytes(99)
    ),
    "dicom: undefined length without end": lambda: dicom_elements(
        b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\x7f" * 9
    ),
    "dicom: empty items without end": lambda: dicom_elements(
        b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * 500_000
    ),
    "dicom: a million elements": lambda: dicom_elements(
        b"".join(struct.pack("<HHccH", 9, n & 0xFFFF, b"L", b"O", 0) for n in range(1_000_000))
    ),
    "dicom: representations that are none": lambda: dicom_elements(
        b"\x08\0\x60\0\xff\xff\x02\0CT\x28\0\x10\0??\x02\0\x40\0\x28\0\x11\0ZZ\x02\0\x40\0"
    ),
    "dicom: odd lengths": lambda: dicom_elements(
        b"\x08\0\x60\0CS\x03\0CTX\x28\0\x10\0US\x01\0\x40"
    ),
    "dicom: RLE of nothing": lambda: encapsulated(RLELossless, bytes(64)),
    "dicom: RLE bomb": lambda: encapsulated(
        RLELossless,
        struct.pack("<16I", 2, 64, 64, *[0] * 13) + b"\x81\0" * 4_000_000,
        Rows=9_000,
        Columns=9_000,
    ),
    "dicom: RLE of 4 billion segments": lambda: encapsulated(RLELossless, b"\xff" * 4096),
    "dicom: JPEG of another size": lambda: encapsulated(
        JPEGBaseline8Bit, jpeg_of_size(9_000, 9_000)
    ),
    "dicom: JPEG of 4 billion pixels": lambda: encapsulated(
        JPEGBaseline8Bit, jpeg_of_size(65_500, 65_500), Rows=65_500, Columns=1_500
    ),
    "dicom: JPEG of noise": lambda: encapsulated(JPEGBaseline8Bit, b"\xff\xd8" + PNG),
    "dicom: JPEG 2000 bomb": lambda: encapsulated(JPEG2000Lossless, jpeg2000(60_000, 60_000)),
    "dicom: JPEG 2000 as it says": lambda: encapsulated(
        JPEG2000Lossless, jpeg2000(9_000, 9_000), Rows=9_000, Columns=9_000
    ),
    "dicom: JPEG 2000 of noise": lambda: encapsulated(JPEG2000Lossless, b"\xff\x4f\xff\x51" + PNG),
    "dicom: an unknown syntax": lambda: encapsulated("1.2.3.4.5", JPEG),
    "dicom: a syntax of 200 characters": lambda: encapsulated("1." * 31 + "1", JPEG),
    **{
        f"dicom: {keyword} is {value!r}": partial(grey_with, keyword, value)
        for keyword, value in (
            ("BitsAllocated", 0),
            ("BitsAllocated", 7),
            ("BitsAllocated", 65_535),
            ("BitsStored", 0),
            ("BitsStored", 65_535),
            ("SamplesPerPixel", 0),
            ("SamplesPerPixel", 65_535),
            ("PixelRepresentation", 9),
            ("PhotometricInterpretation", "YBR_FULL"),
            ("PhotometricInterpretation", "PALETTE COLOR"),
            ("PhotometricInterpretation", "X" * 16),
            ("WindowWidth", "0"),
            ("WindowWidth", "-1e300"),
            ("RescaleSlope", "1e308"),
            ("SpecificCharacterSet", "ISO 2022 IR 9999"),
            ("PixelPaddingValue", 65_535),
        )
    },
}


def cut_short() -> Iterator[tuple[str, bytes]]:
    """Each accepted format, cut at every tenth."""
    whole = {
        "png": PNG,
        "jpeg": JPEG,
        "gif": GIF,
        "bmp": BMP,
        "tiff": TIFF,
        "webp": WEBP,
        "avif": AVIF,
        "heic": samples.HEIC,
        "dicom": samples.dicom("CT_small.dcm"),
    }
    for name, content in whole.items():
        for tenth in range(1, 10):
            yield f"{name}: cut at {tenth}0 %", content[: len(content) * tenth // 10]


def main() -> None:
    """Write every file into the folder named on the command line."""
    folder = Path(sys.argv[1])
    folder.mkdir()
    made = {name: make() for name, make in FILES.items()} | dict(cut_short())
    for number, (name, content) in enumerate(made.items()):
        (folder / f"{number:03} {name.replace('/', '-')}").write_bytes(content)


if __name__ == "__main__":
    main()
