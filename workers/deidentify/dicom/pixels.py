"""Cover faces and writing in the pixel values of a DICOM object, every frame of it.

The sandbox unpacks the stored values of any syntax it can decode. They are written again as
Explicit VR Little Endian, uncompressed: a stream that was passed through might carry comments.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from retrieval.errors import NeedsReview, Reason, Rejected
from workers.decode.stored import Stretch, stored_frames
from workers.deidentify.dicom import header
from workers.deidentify.dicom.hidden import hidden_views
from workers.deidentify.dicom.mapping import Mapping
from workers.deidentify.dicom.table import Action

Frames = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.generic]

# Held in memory four times while a file of them is sealed and written.
MAX_VALUE_BYTES = 512 * 1024**2
# So many pixels of frames are looked at together: writing stands still, what is behind it moves.
_LOOKED_AT_PIXELS = 16_000_000
# What covers, in the values of colour pixels.
_COLOURS = {"RGB": (0, 0, 0), "YBR_FULL": (0, 128, 128)}
# Syntaxes that have lost something, by the standard each is of (PS3.3 C.7.6.1.1.5.1).
_LOSSY = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}
_KEYWORDS = {"<f4": "FloatPixelData", "<f8": "DoubleFloatPixelData"}
_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_NO_PICTURE = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Covered:
    """What became of an object. content: the de-identified file, None where there is none.

    counts: how often each action was done to its header. reason: why there is no file;
    for_review: that a person must look at the picture first.
    """

    content: bytes | None = field(repr=False)
    counts: dict[Action, int]
    reason: Reason | None = None
    for_review: bool = False


def covered_object(
    content: bytes, mapping: Mapping, look: Callable[[Frames], Mask], *, says_clean: bool
) -> Covered:
    """Return a de-identified DICOM file with every frame covered.

    content: a file the sandbox has decoded. look: (N, H, W, 3) uint8 RGB, frames as a viewer shows
    them or would with another window → an (H, W) mask of what to cover in all frames; raises
    NeedsReview if a person must look first. says_clean: whether `look` finds faces and writing, so
    that the object may say that neither is left. Pixels outside the masks keep their values. Raises
    Rejected for a header that cannot be cleaned.
    """
    source = header.read(content)
    was_sealed = header.is_sealed(source, mapping)
    cleaned, counts = header.deidentified_header(source, mapping, pixels_cleaned=says_clean)
    if was_sealed and (header.declares_clean_pixels(source) or not says_clean):
        return Covered(header.write(cleaned), counts)
    try:
        stretches, mask = _looked_at(stored_frames(content), look)
    except NeedsReview as exc:
        return Covered(None, counts, exc.reason, for_review=True)
    except Rejected as exc:
        return Covered(None, counts, exc.reason)
    set_pixels(cleaned, stretches, mask)
    _tell_losses(cleaned, source)
    if was_sealed:
        header.declare_clean_pixels(cleaned)
    header.seal(cleaned, mapping)
    return Covered(header.write(cleaned), counts)


def _looked_at(
    stretches: Iterator[Stretch], look: Callable[[Frames], Mask]
) -> tuple[list[Stretch], Mask]:
    """Return the stored values of all frames, and what is covered in every one of them.

    What a frame's own picture hides is looked at too, each way to show it by itself. Pictures are
    dropped once they were looked at. Raises Rejected, NeedsReview.
    """
    kept: list[Stretch] = []
    waiting: dict[str, list[Frames]] = {}
    masks: list[Mask] = []
    for stretch in stretches:
        if stretch.values[0].nbytes * stretch.frames > MAX_VALUE_BYTES:
            raise Rejected(Reason.TOO_MANY_PIXELS)
        waiting.setdefault("shown", []).append(stretch.shown)
        for name, view in hidden_views(stretch):
            waiting.setdefault(name, []).append(view)
        # A copy: what the sandbox left holds values and pictures in one.
        kept.append(replace(stretch, values=stretch.values.copy(), shown=_NO_PICTURE))
        if sum(frames[..., 0].size for frames in waiting["shown"]) >= _LOOKED_AT_PIXELS:
            masks += _looks(waiting, look)
            waiting = {}
    masks += _looks(waiting, look)
    return kept, np.logical_or.reduce(masks)


def _looks(waiting: dict[str, list[Frames]], look: Callable[[Frames], Mask]) -> Iterator[Mask]:
    """Yield what is covered because of each kind of picture. Raises NeedsReview."""
    for kind in waiting.values():
        frames = np.concatenate(kind)
        yield look(frames if frames.ndim == 4 else np.repeat(frames[..., None], 3, axis=3))  # noqa: PLR2004


def set_pixels(dataset: Dataset, stretches: list[Stretch], mask: Mask) -> None:
    """Cover what is under the mask and write all frames, colours by pixel, in little endian."""
    one = stretches[0]
    values = np.concatenate([stretch.values for stretch in stretches])
    values[:, mask] = _cover(values, one.photometric)
    dataset.SamplesPerPixel = 3 if one.photometric in _COLOURS else 1
    dataset.PhotometricInterpretation = one.photometric
    dataset.pop("PlanarConfiguration", None)
    if one.photometric in _COLOURS:
        dataset.PlanarConfiguration = 0
    if "NumberOfFrames" in dataset or len(values) > 1:
        dataset.NumberOfFrames = len(values)
    for keyword in ("PixelData", *_KEYWORDS.values(), *_OFFSETS):
        dataset.pop(keyword, None)
    _describe(dataset, one, values.dtype)
    raw = np.packbits(values, bitorder="little").tobytes() if one.one_bit else values.tobytes()
    keyword = _KEYWORDS.get(values.dtype.str, "PixelData")
    short = "OB" if one.one_bit or values.dtype.itemsize == 1 else "OW"
    representation = {"FloatPixelData": "OF", "DoubleFloatPixelData": "OD"}.get(keyword, short)
    dataset.add_new(keyword, representation, raw + b"\0" * (len(raw) % 2))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _cover(values: Values, photometric: str) -> Values:
    """Return one value for what is covered: black, the darkest grey there is, the first colour."""
    if photometric in _COLOURS:
        return np.array(_COLOURS[photometric]).astype(values.dtype)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return np.zeros((), values.dtype)
    return np.asarray(finite.max() if photometric == "MONOCHROME1" else finite.min())


def _describe(dataset: Dataset, one: Stretch, kind: np.dtype[np.generic]) -> None:
    """Say how the values are written; floats are described by their element alone."""
    dataset.BitsAllocated = 1 if one.one_bit else 8 * kind.itemsize
    if kind.kind == "f":
        return
    dataset.BitsStored, dataset.HighBit = one.bits_stored, one.bits_stored - 1
    dataset.PixelRepresentation = 1 if kind.kind == "i" else 0


def _tell_losses(cleaned: Dataset, source: Dataset) -> None:
    """Keep what the syntax said and the new one does not: that compression has lost something."""
    method = _LOSSY.get(source.file_meta.get("TransferSyntaxUID"))
    if method:
        cleaned.LossyImageCompression = "01"
        if not cleaned.get("LossyImageCompressionMethod"):
            cleaned.LossyImageCompressionMethod = method
