"""JPEG Extended of 12 bits (T.81 processes 2 and 4), read by GDCM: a plugin for pydicom.

pydicom's own GDCM plugin refuses such frames. GDCM reads them, after a complaint on standard error
about the precision that it tries first (github.com/tfmoraes/python-gdcm/issues/35).
"""

import struct

import gdcm
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGExtended12Bit

from retrieval.errors import Reason, Rejected

DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("gdcm",)}

_BITS = 12
_BITS_ALLOCATED = 16
_START_OF_FRAME = b"\xff\xc1"  # extended sequential, Huffman coding


def is_available(syntax: str) -> bool:
    """Whether this plugin reads frames of `syntax`; pydicom asks."""
    return syntax == JPEGExtended12Bit


def decode_frame(content: bytes, runner: DecodeRunner) -> bytes:
    """Return a frame's values, 16 bits each. Raises Rejected for one that its header belies."""
    if runner.bits_allocated != _BITS_ALLOCATED or runner.samples_per_pixel != 1:
        raise Rejected(Reason.DECODE_FAILED)
    # GDCM takes the header's word for the size of a frame.
    if (_BITS, runner.rows, runner.columns, 1) != _frame_header(content):
        raise Rejected(Reason.DECODE_FAILED)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(content)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType(str(runner.photometric_interpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    syntax = gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    signed = runner.pixel_representation
    image.SetPixelFormat(gdcm.PixelFormat(1, _BITS_ALLOCATED, _BITS, _BITS - 1, signed))
    # A string of GDCM's is bytes to Python.
    return bytes(image.GetBuffer().encode("utf-8", "surrogateescape"))


def _frame_header(content: bytes) -> tuple[int, int, int, int] | None:
    """Return bits, height, width and components of the first frame (T.81 B.2.2)."""
    at = content.find(_START_OF_FRAME)
    if at < 0 or len(content) < at + 10:
        return None
    bits, height, width, components = struct.unpack(">BHHB", content[at + 4 : at + 10])
    return bits, height, width, components
