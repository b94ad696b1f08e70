"""The one ICC profile that objects leave with: sRGB (IEC 61966-2-1), of nobody's device.

A scanner's or microscope's own profile names its maker, model and serial number, and the colours it
measured are as good as one. The attribute is required of some kinds of object, so it stays.
"""

import struct

_HEADER_BYTES = 128
_MATRIX_VERSION = 0x04200000
# Adapted to D50 (ICC.1:2022 annex E); white point of the connection space (7.2.16).
_WHITE = (0.9642, 1.0, 0.8249)
_PRIMARIES = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.71410),
}
# Of parametric curve type 3 (10.18): gamma, a, b, c, d.
_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _fixed(*numbers: float) -> bytes:
    """s15Fixed16Number (4.6)."""
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _text(words: str) -> bytes:
    """multiLocalizedUnicodeType (10.15), one language."""
    raw = words.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(raw), 28) + raw


def _profile() -> bytes:
    curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _fixed(*_CURVE)
    tags = {
        b"desc": _text("sRGB"),
        b"cprt": _text("No copyright"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_WHITE),
        **{name: b"XYZ \0\0\0\0" + _fixed(*xyz) for name, xyz in _PRIMARIES.items()},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = _HEADER_BYTES + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12s4s28x12s",
        start + len(body),
        _MATRIX_VERSION,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        struct.pack(">6H", 2000, 1, 1, 0, 0, 0),
        b"acsp",
        _fixed(*_WHITE),
    )
    return header.ljust(_HEADER_BYTES, b"\0") + table + body


SRGB_PROFILE = _profile()
