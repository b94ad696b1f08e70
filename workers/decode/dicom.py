"""DICOM images, read by pydicom with GDCM and OpenJPEG. Runs inside the sandbox only.

pylibjpeg-libjpeg is left out on purpose: its licence is the GPL. GDCM reads the same syntaxes.
"""

import io
import logging
import math
import os
import struct
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    convert_color_space,
)
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    AllTransferSyntaxes,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    UncompressedTransferSyntaxes,
)

from retrieval.errors import Reason, Rejected
from workers.decode import values as layout
from workers.decode.limits import Limits
from workers.decode.picture import Picture, Pixels, check_size, strips

MEDIA_TYPE = "application/dicom"

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_BITS_PER_SAMPLE = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
_PREAMBLE_END = 132
_TWELVE_BITS = "cloister"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# File meta information, or the first group of a bare data set (PS3.10 7.1, PS3.3 C.12.1).
_FIRST_GROUPS = (2, 8)
_MAX_FIRST_VALUE_BYTES = 1024
# One answer holds so many pixels, or one frame: a child has seconds, not minutes.
_PIXELS_AT_ONCE = 8_000_000
# An object leaves with all its values, so none of its frames is looked at reduced; a mammogram has
# up to 28 million.
_MAX_FRAME_PIXELS = 50_000_000

Values = npt.NDArray[np.float32]


def preload() -> None:
    """Load every decoder now: a confined process cannot open the files they are in."""
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    for syntax in AllTransferSyntaxes:
        try:
            get_decoder(syntax)
        except NotImplementedError:
            continue  # video syntaxes have no decoder
    extended = get_decoder(JPEGExtended12Bit)
    if _TWELVE_BITS not in extended.available_plugins:
        extended.add_plugin(_TWELVE_BITS, ("workers.decode.extended_jpeg", "decode_frame"))


def is_dicom(content: bytes) -> bool:
    """Whether a file says it is DICOM, by the mark behind its preamble."""
    return content[128:_PREAMBLE_END] == b"DICM"


def may_be_bare_dicom(content: bytes) -> bool:
    """Whether a file begins like a DICOM data set without a preamble (older archives hold many)."""
    if len(content) < _PREAMBLE_END:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", content[:4])
        if group in _FIRST_GROUPS and element <= 0x20:  # noqa: PLR2004 - Image Type and before
            length = struct.unpack(f"{order}I", content[4:8])[0]
            return content[4:6].isalpha() or length <= _MAX_FIRST_VALUE_BYTES
    return False


def open_dicom(file: BinaryIO, limits: Limits) -> Picture:
    """Read a data set and measure its image by its header.

    Raises Rejected: NOT_AN_IMAGE if it is no DICOM after all; NO_PIXELS for reports, plans,
    waveforms and directories; TRUNCATED, TOO_SMALL, TOO_MANY_PIXELS. What pydicom raises on a
    broken data set passes through.
    """
    dataset, height, width, frames = _opened(file, limits)

    def paint(out: Pixels) -> None:
        _paint(dataset, pixel_array(dataset, index=0), out)

    return Picture(
        height,
        width,
        frames,
        MEDIA_TYPE,
        paint,
        _modality(dataset),
        _burned_in(dataset),
        _is_copied_screen(dataset),
    )


def answer_values(
    file: BinaryIO,
    asked: layout.Asked,
    limits: Limits,
    room: Callable[[int], npt.NDArray[np.uint8]],
) -> layout.Answer:
    """Lay stored values and pictures of the asked frames out in `room`, as many as are few.

    room: size in bytes → a writable array of that many. Raises as `open_dicom` does.
    """
    dataset, height, width, frames = _opened(file, limits)
    syntax = dataset.file_meta.TransferSyntaxUID
    if asked.first >= frames:
        raise Rejected(Reason.DECODE_FAILED)
    count = min(asked.count, frames - asked.first, max(1, _PIXELS_AT_ONCE // (height * width)))
    answer = layout.Answer(Reason.DECODE_FAILED)
    for place in range(count):
        frame, found = get_decoder(syntax).as_array(dataset, index=asked.first + place, raw=True)
        kind = frame.dtype.newbyteorder("<").str
        photometric = str(found["photometric_interpretation"]).replace("_422", "")
        if kind not in layout.KINDS or photometric not in layout.PHOTOMETRIC:
            raise Rejected(Reason.DECODE_FAILED)
        bits = 8 * frame.dtype.itemsize if frame.dtype.kind == "f" else int(found["bits_stored"])
        is_packed = int(dataset.get("BitsAllocated") or 0) == 1
        described = layout.Answer(
            None,
            frames,
            count,
            height,
            width,
            int(found["samples_per_pixel"]),
            kind,
            photometric,
            min(bits, 8 * frame.dtype.itemsize),
            is_packed,
        )
        if place == 0:
            answer = described
            stored, shown = layout.split(room(answer.result_bytes), answer)
        if described != answer or frame.shape != stored.shape[1:]:
            raise Rejected(Reason.DECODE_FAILED)
        stored[place] = frame
        if photometric == "YBR_FULL":
            frame = convert_color_space(frame, "YBR_FULL", "RGB")
        _paint(dataset, frame, shown[place])
    return answer


def _opened(file: BinaryIO, limits: Limits) -> tuple[Dataset, int, int, int]:
    """Return a data set with an image, its height, width and number of frames, all checked."""
    size = os.fstat(file.fileno()).st_size
    dataset = dcmread(_Bounded(file, size), force=True)
    if "SOPClassUID" not in dataset and "Modality" not in dataset and "Rows" not in dataset:
        known = "MediaStorageSOPClassUID" in dataset.file_meta
        raise Rejected(Reason.NO_PIXELS if known else Reason.NOT_AN_IMAGE)
    keyword = next((word for word in _PIXEL_KEYWORDS if word in dataset), None)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise Rejected(Reason.NO_PIXELS)
    height, width = int(dataset.Rows), int(dataset.Columns)
    frames = max(1, int(dataset.get("NumberOfFrames") or 1))
    if keyword is None:
        # The pixels are last: a file cut before them has lost them, others never had any.
        raise Rejected(Reason.NO_PIXELS)
    check_size(height, width, frames, limits)
    if height * width > _MAX_FRAME_PIXELS:
        raise Rejected(Reason.TOO_MANY_PIXELS)
    _ensure_transfer_syntax(dataset)
    if _pixels_are_cut(dataset, keyword, size):
        raise Rejected(Reason.TRUNCATED)
    return dataset, height, width, frames


class _Bounded(io.BufferedReader):
    """A file of which no more is asked than it holds.

    Python takes memory for as many bytes as it is asked, and pydicom asks what a header says.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(io.FileIO(file.fileno(), closefd=False))
        self._size = size
        self.seek(0)  # `file` has looked ahead

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _modality(dataset: Dataset) -> str | None:
    """Return Modality (0008,0060) if it is a code string worth the name: at most 16 of A-Z, 0-9."""
    code = str(dataset.get("Modality") or "").strip().upper()
    return code if len(code) <= 16 and code.isascii() and code.isalnum() else None  # noqa: PLR2004


def _burned_in(dataset: Dataset) -> bool | None:
    """Return BurnedInAnnotation (0028,0301); anything but YES and NO says nothing."""
    value = str(dataset.get("BurnedInAnnotation") or "").strip().upper()
    return {"YES": True, "NO": False}.get(value)


def _is_copied_screen(dataset: Dataset) -> bool:
    """Whether the image is a Secondary Capture (PS3.3 A.8), such as a scanned film or a dose page.

    Its Modality names the device the screen belonged to, so it often says CT.
    """
    sop_class = str(dataset.get("SOPClassUID") or "")
    image_type = str(dataset.get("ImageType") or "").upper()
    return (
        f"{sop_class}.".startswith(f"{_SECONDARY_CAPTURE}.")
        or bool(dataset.get("ConversionType"))
        or "SCREEN" in image_type
    )


def _ensure_transfer_syntax(dataset: Dataset) -> None:
    """Name the syntax a bare data set was read with; pydicom found it out while reading."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        syntax = ImplicitVRLittleEndian
    else:
        syntax = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = syntax


def _pixels_are_cut(dataset: Dataset, keyword: str, file_bytes: int) -> bool:
    """Whether an uncompressed first frame is shorter than its header promises."""
    present = len(dataset[keyword].value or b"")
    if present == 0:
        return True
    if dataset.file_meta.TransferSyntaxUID not in UncompressedTransferSyntaxes:
        return False
    bits = _BITS_PER_SAMPLE.get(keyword) or int(dataset.BitsAllocated)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    expected = math.ceil(int(dataset.Rows) * int(dataset.Columns) * samples * bits / 8)
    return present < min(expected, file_bytes)


def _paint(dataset: Dataset, frame: npt.NDArray[Any], out: Pixels) -> None:
    """Write one frame into `out` as RGB.

    frame: (H, W) or (H, W, 3) of any integer or float type, YBR already turned into RGB.
    """
    if frame.shape[:2] != out.shape[:2]:
        raise Rejected(Reason.DECODE_FAILED)
    if frame.ndim == 3:  # noqa: PLR2004
        _paint_colour(frame, int(dataset.BitsStored), out)
    elif dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        coloured = apply_color_lut(frame, dataset)
        _paint_colour(coloured[..., :3], 8 * coloured.dtype.itemsize, out)
    else:
        _paint_grey(dataset, frame, out)


def _paint_colour(frame: npt.NDArray[Any], bits: int, out: Pixels) -> None:
    scale = 255.0 / (2**bits - 1)
    for top, bottom in strips(*out.shape[:2]):
        part = frame[top:bottom].astype(np.float32) * scale
        out[top:bottom] = part.clip(0, 255).round()


def _paint_grey(dataset: Dataset, frame: npt.NDArray[Any], out: Pixels) -> None:
    """Show grey values as a viewer would: modality, then window, then polarity (PS3.4 N.2)."""
    if "ModalityLUTSequence" in dataset:
        frame, slope, intercept = apply_modality_lut(frame, dataset), 1.0, 0.0
    else:
        slope = _number(dataset, "RescaleSlope", 1.0)
        intercept = _number(dataset, "RescaleIntercept", 0.0)
    if "VOILUTSequence" in dataset:
        shown = frame.astype(np.float32) * slope + intercept
        frame, slope, intercept = apply_voi(shown.astype(np.int32), dataset), 1.0, 0.0
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        window: Callable[[Values], Values] = _linear(0.0, float(2**bits - 1))
    else:
        window = _window(dataset) or _linear(*_range(dataset, frame, slope, intercept))
    inverted = (
        dataset.get("PhotometricInterpretation") == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    )
    for top, bottom in strips(*out.shape[:2]):
        values = frame[top:bottom].astype(np.float32) * np.float32(slope) + np.float32(intercept)
        grey = (np.nan_to_num(window(values)).clip(0, 1) * 255).round().astype(np.uint8)
        out[top:bottom] = (255 - grey if inverted else grey)[..., None]


def _window(dataset: Dataset) -> Callable[[Values], Values] | None:
    """Return the first window of the data set as a map to [0, 1] (PS3.3 C.11.2.1.2), or None."""
    centre = _number(dataset, "WindowCenter", math.nan)
    width = _number(dataset, "WindowWidth", math.nan)
    if math.isnan(centre) or math.isnan(width):
        return None
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID" and width > 0:
        return lambda values: 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT" and width > 0:
        return _linear(centre - width / 2, centre + width / 2)
    if function == "LINEAR" and width > 1:
        return _linear(centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)
    return None


def _linear(low: float, high: float) -> Callable[[Values], Values]:
    if not high > low:
        return np.zeros_like
    return lambda values: (values - np.float32(low)) / np.float32(high - low)


def _range(
    dataset: Dataset, frame: npt.NDArray[Any], slope: float, intercept: float
) -> tuple[float, float]:
    """Return the lowest and highest rescaled value, padding left out."""
    padding = dataset.get("PixelPaddingValue")
    low, high = np.inf, -np.inf
    for top, bottom in strips(*frame.shape):
        part = frame[top:bottom]
        part = part[np.isfinite(part)] if part.dtype.kind == "f" else part
        part = part[part != padding] if isinstance(padding, int) else part
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low > high:
        return 0.0, 0.0
    ends = (low * slope + intercept, high * slope + intercept)
    return min(ends), max(ends)


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    """Return the first value of a decimal string, `default` if absent, empty or not finite."""
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    if value is None or value == "":
        return default
    number = float(value)
    return number if math.isfinite(number) else default
