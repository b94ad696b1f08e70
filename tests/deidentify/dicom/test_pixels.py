"""Covers are written into the stored values, of all frames, and nothing else changes."""

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian

from retrieval.errors import NeedsReview, Reason
from tests.decode import samples
from workers.deidentify.dicom import header, pixels
from workers.deidentify.dicom.mapping import Mapping

MAPPING = Mapping(b"k" * 32)


def corner(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(frames.shape[1:3], bool)
    mask[:12, :20] = True
    return mask


def for_a_person(_frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    raise NeedsReview(Reason.TEXT_STILL_FOUND)


def covered_content(content: bytes) -> bytes:
    result = pixels.covered_object(content, MAPPING, corner, says_clean=True)
    assert result.content is not None, result.reason
    return result.content


def covered(name: str) -> bytes:
    return covered_content(samples.dicom(name))


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_RLE.dcm",
        "image_dfl.dcm",
        "examples_palette.dcm",
        "ExplVR_BigEnd.dcm",
    ],
)
def test_values_under_a_cover_are_gone_and_all_others_are_as_they_were(name: str) -> None:
    before = header.read(samples.dicom(name))
    after = header.read(covered(name))

    old, new = pixel_array(before, raw=True), pixel_array(after, raw=True)
    if int(before.get("NumberOfFrames") or 1) == 1:
        old, new = old[None], new[None]
    hidden = new[:, :12, :20]
    assert (hidden == hidden[0, 0, 0]).all()
    old[:, :12, :20] = new[:, :12, :20]
    assert np.array_equal(old, new)
    assert after.PhotometricInterpretation == before.PhotometricInterpretation
    assert after.get("PixelSpacing") == before.get("PixelSpacing")
    assert after.BurnedInAnnotation == "NO"


def test_every_frame_is_looked_at_and_covered() -> None:
    source = header.read(samples.dicom("CT_small.dcm"))
    source.PixelData, source.NumberOfFrames = source.PixelData * 3, 3
    seen: list[tuple[int, ...]] = []

    def look(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        seen.append(frames.shape)
        return corner(frames)

    content = pixels.covered_object(header.write(source), MAPPING, look, says_clean=True).content

    assert content is not None
    assert seen == [(3, 128, 128, 3)]
    after = pixel_array(header.read(content))
    assert len({int(value) for value in after[:, :12, :20].ravel()}) == 1


def test_what_a_person_must_see_first_is_not_written() -> None:
    result = pixels.covered_object(
        samples.dicom("CT_small.dcm"), MAPPING, for_a_person, says_clean=True
    )

    assert (result.content, result.reason) == (None, Reason.TEXT_STILL_FOUND)
    assert result.for_review
    assert result.counts


@pytest.mark.parametrize(
    ("name", "photometric"),
    [
        ("693_J2KI.dcm", "MONOCHROME2"),
        ("examples_jpeg2k.dcm", "RGB"),
        ("SC_rgb_jpeg_gdcm.dcm", "RGB"),
        ("SC_rgb_jls_lossy_line.dcm", "RGB"),
        ("SC_rgb_rle_16bit_2frame.dcm", "RGB"),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", "YBR_FULL"),
        ("SC_ybr_full_422_uncompressed.dcm", "YBR_FULL"),
        ("liver_1frame.dcm", "MONOCHROME2"),
        ("liver_expb_1frame.dcm", "MONOCHROME2"),
        ("MR_small_jpeg_ls_lossless.dcm", "MONOCHROME2"),
    ],
)
def test_pixels_of_any_syntax_are_written_uncompressed(name: str, photometric: str) -> None:
    before = header.read(samples.dicom(name))
    after = header.read(covered(name))

    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert after.PhotometricInterpretation == photometric
    assert (after.BitsAllocated, after.BitsStored) == (before.BitsAllocated, before.BitsStored)
    old, new = pixel_array(before, index=0), pixel_array(after, index=0)
    assert old.dtype.kind == new.dtype.kind
    keep = ~corner(np.empty((1, *new.shape), np.uint8))
    assert np.array_equal(old[keep], new[keep])
    assert len(np.unique(new[:12, :20].reshape(-1, 3 if new.ndim == 3 else 1), axis=0)) == 1


def test_what_compression_has_lost_is_told() -> None:
    silent = header.read(samples.dicom("SC_rgb_jpeg_lossy_gdcm.dcm"))
    del silent.LossyImageCompression

    after = header.read(covered_content(header.write(silent)))

    assert after.LossyImageCompression == "01"
    assert after.LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.parametrize("kind", ["FloatPixelData", "DoubleFloatPixelData"])
def test_values_with_a_fraction_stay_such(kind: str) -> None:
    source = header.read(samples.dicom("CT_small.dcm"))
    width = {"FloatPixelData": "<f4", "DoubleFloatPixelData": "<f8"}[kind]
    values = np.linspace(-1, 1, 128 * 128).reshape(128, 128).astype(width)
    del source.PixelData
    setattr(source, kind, values.tobytes())
    source.BitsAllocated = 8 * values.itemsize

    after = header.read(covered_content(header.write(source)))

    new = pixel_array(after)
    assert new.dtype == values.dtype
    assert np.array_equal(new[20:], values[20:])
    assert (new[:12, :20] == -1).all()


def test_more_frames_than_are_looked_at_together_are_all_covered() -> None:
    source = header.read(samples.dicom("MR_small.dcm"))
    source.PixelData, source.NumberOfFrames = source.PixelData * 70, 70
    del source.WindowCenter, source.WindowWidth  # with one, what it hides is looked at as well
    looks: list[int] = []

    def last_only(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        looks.append(len(frames))
        return corner(frames)

    content = pixels.covered_object(
        header.write(source), MAPPING, last_only, says_clean=True
    ).content

    assert content is not None
    after = pixel_array(header.read(content))
    assert sum(looks) == len(after) == 70
    assert len(np.unique(after[:, :12, :20])) == 1


def test_an_object_that_was_not_looked_at_for_writing_is_looked_at_when_asked() -> None:
    once = pixels.covered_object(
        samples.dicom("CT_small.dcm"),
        MAPPING,
        lambda frames: np.zeros(frames.shape[1:3], bool),
        says_clean=False,
    ).content
    assert once is not None

    after = header.read(covered_content(once))

    assert len(np.unique(pixel_array(after)[:12, :20])) == 1
    assert after.PatientID == header.read(once).PatientID
    assert after.BurnedInAnnotation == "NO"
    assert header.is_sealed(after, MAPPING)


def test_a_second_run_gives_the_same_file() -> None:
    once = covered("CT_small.dcm")

    again = pixels.covered_object(once, MAPPING, corner, says_clean=True)

    assert again.content == once
    assert again.counts == {}
