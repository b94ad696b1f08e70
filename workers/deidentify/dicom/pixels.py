"""Cover faces and writing in the pixel values of a DICOM object, every frame of it.

Only pixels that Python itself can unpack are written again: uncompressed, deflated and RLE. JPEG
and its kin would need a codec outside the sandbox, and passed through as they are their streams may
carry comments: of such an object the picture leaves, not the object.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from retrieval.errors import Reason, Rejected
from workers.decode.sandbox import decode
from workers.deidentify.dicom import header
from workers.deidentify.dicom.mapping import Mapping
from workers.deidentify.dicom.table import Action

Frames = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
MAX_FRAMES = 64
MAX_SAMPLES = 100_000_000
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
# What covers, in the values of each kind of pixel.
_COLOURS = {"RGB": (0, 0, 0), "YBR_FULL": (0, 128, 128)}
_WHOLE_BYTES = (8, 16, 32)
_COLOUR_DIMENSIONS = 4


def covered_object(
    content: bytes, mapping: Mapping, look: Callable[[Frames], Mask | None], *, says_clean: bool
) -> tuple[bytes | None, dict[Action, int]]:
    """Return a de-identified DICOM file, and how often each action was done to its header.

    content: a file the sandbox has decoded. look: (N, H, W, 3) uint8 RGB, all frames as a viewer
    shows them → an (N, H, W) mask of what to cover, or None if a person must look first.
    says_clean: whether `look` finds faces and writing, so that the object may say that neither is
    left. No file is returned where `look` returns None or the pixels cannot be written again.
    Pixels outside the mask keep their values. Raises Rejected.
    """
    source = header.read(content)
    was_sealed = header.is_sealed(source, mapping)
    cleaned, counts = header.deidentified_header(source, mapping, pixels_cleaned=says_clean)
    if was_sealed:
        return header.write(cleaned), counts
    values = _values(source)
    if values is None:
        return None, counts
    mask = look(np.stack([_shown(source, frame) for frame in values]))
    if mask is None:
        return None, counts
    _set_pixels(cleaned, _covered(source, values, mask))
    header.seal(cleaned, mapping)
    return header.write(cleaned), counts


def _values(dataset: Dataset) -> npt.NDArray[np.generic] | None:
    """Return (N, H, W) or (N, H, W, 3) stored values; None where Python alone cannot have them."""
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    kind = dataset.get("PhotometricInterpretation")
    if (
        syntax is None
        or (syntax.is_encapsulated and syntax != RLELossless)
        or kind not in _GREY | _COLOURS.keys() | {"PALETTE COLOR"}
        or dataset.get("BitsAllocated") not in _WHOLE_BYTES
        or "PixelData" not in dataset
    ):
        return None
    frames = max(1, int(dataset.get("NumberOfFrames") or 1))
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if frames > MAX_FRAMES or frames * dataset.Rows * dataset.Columns * samples > MAX_SAMPLES:
        return None
    try:
        plugin = "pydicom" if syntax == RLELossless else ""
        values = pixel_array(dataset, raw=True, decoding_plugin=plugin)
    except Exception:  # noqa: BLE001 - a broken frame: the object is not written
        return None
    return values if frames > 1 else values[None]


def _shown(source: Dataset, frame: npt.NDArray[np.generic]) -> Frames:
    """Return one frame as a viewer shows it, (H, W, 3) uint8, rendered by the sandbox."""
    try:
        single = Dataset()
        for element in source:
            if not element.tag.is_private and element.VR != "PN":
                single.add(element)
        single.NumberOfFrames = 1
        _set_pixels(single, frame[None])
        single.file_meta = FileMetaDataset()
        single.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        single.file_meta.MediaStorageSOPClassUID = _SECONDARY_CAPTURE
        single.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
        content = header.write(single)
    except Exception as exc:
        raise Rejected(Reason.DECODE_FAILED) from exc
    return decode(content).pixels


def _covered(
    source: Dataset, values: npt.NDArray[np.generic], mask: Mask
) -> npt.NDArray[np.generic]:
    kind = str(source.PhotometricInterpretation)
    covered = values.copy()
    if kind in _COLOURS:
        covered[mask] = np.array(_COLOURS[kind]).astype(values.dtype)
    else:
        # The darkest grey there is in the picture, or its first colour.
        covered[mask] = values.max() if kind == "MONOCHROME1" else values.min()
    return covered


def _set_pixels(dataset: Dataset, values: npt.NDArray[np.generic]) -> None:
    """Write (N, H, W[, 3]) values, uncompressed, little endian, colours by pixel."""
    if values.ndim == _COLOUR_DIMENSIONS:
        dataset.PlanarConfiguration = 0
    raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    representation = "OB" if values.dtype.itemsize == 1 else "OW"
    dataset.add_new("PixelData", representation, raw + b"\0" * (len(raw) % 2))
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    if hasattr(dataset, "file_meta"):
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
