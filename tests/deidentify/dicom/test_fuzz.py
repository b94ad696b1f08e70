"""Whatever stands in a header, however it is written: no name of it leaves, and nothing fails."""

import re
import struct
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR

from retrieval.errors import Rejected
from workers.deidentify.dicom import header, table
from workers.deidentify.dicom.mapping import Mapping

MAPPING = Mapping(b"k" * 32)
NAME = b"Xaverine Quux"
# What shows the picture is taken over as it is: what it says is looked for in its pixels.
KEPT_BYTES = {
    tag
    for tag in DicomDictionary
    if dictionary_keyword(tag) in table._PICTURE_BYTES
    or dictionary_keyword(tag).endswith(table._PICTURE_BYTES_ENDS)
}
TAGS = sorted(set(DicomDictionary) - KEPT_BYTES)
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
SHORT = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN"),
    *(b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
}
NUMBERS = {b"AT", b"FD", b"FL", b"SL", b"SS", b"SV", b"UL", b"US", b"UV"}
quickly = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])

names = st.sampled_from(
    [
        NAME,
        b"QUUX^XAVERINE",
        b"20200101\\Quux",
        b"1.2.3.Quux",
        b"Dr. Quux, 12.3.1980",
        b"\xd8uux Quux\\\\Quux",
        b"4711 Quux",
        b"Quux\0",
    ]
)
junk = st.binary(max_size=24).filter(lambda raw: not re.search(rb"(?i)quux|xaverine", raw))
tags = st.one_of(
    st.sampled_from(TAGS),
    st.builds(
        lambda group, element: group << 16 | element, st.integers(8, 0x7FD0), st.integers(0, 0xFFFF)
    ),
)


def element(tag: int, kind: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind)
    if kind in LONG:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def sequence(tag: int, inner: bytes) -> bytes:
    return element(tag, b"SQ", b"\xfe\xff\0\xe0" + struct.pack("<I", len(inner)) + inner)


@st.composite
def data_sets(draw: Any, depth: int = 0) -> bytes:
    """Elements of any tag, of any representation, with any value, in order of their tags."""
    written: dict[int, bytes] = {}
    for tag in draw(st.lists(tags, min_size=1, max_size=6)):
        kind = draw(st.sampled_from(sorted(SHORT | LONG)))
        # The bytes of binary numbers may spell anything, and stay numbers.
        read_as = {kind}
        if kind == b"UN" and dictionary_has_tag(tag):
            read_as = {part.encode() for part in dictionary_VR(tag).split(" or ")}
        value = draw(junk if read_as & NUMBERS else st.one_of(names, junk))
        if kind == b"SQ":
            inner = draw(data_sets(depth + 1)) if depth < 2 else b""
            written[tag] = sequence(tag, inner)
        else:
            written[tag] = element(tag, kind, value)
    return b"".join(written[tag] for tag in sorted(written))


def object_with(body: bytes) -> bytes:
    patient = element(0x00100010, b"PN", b"Quux^Xaverine") + element(0x00100020, b"LO", b"HX-9")
    return (
        bytes(128) + b"DICM" + element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0") + patient + body
    )


@given(body=data_sets())
@example(body=sequence(0x00101040, element(0x00181310, b"UL", b"\0")))  # an address that is none
@quickly
def test_no_name_leaves_wherever_it_stands(body: bytes) -> None:
    try:
        source = header.read(object_with(body))
        cleaned, _ = header.deidentified_header(source, MAPPING, pixels_cleaned=False)
        written = header.write(cleaned)
    except Rejected:
        return

    assert b"quux" not in written.lower()
    assert b"xaverine" not in written.lower()
    assert isinstance(header.read(written), Dataset)
