"""Covers are written into the stored values, of all frames, and nothing else changes."""

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.pixels.utils import pixel_array

from tests.decode import samples
from workers.deidentify.dicom import header, pixels
from workers.deidentify.dicom.mapping import Mapping

MAPPING = Mapping(b"k" * 32)


def corner(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(frames.shape[:3], bool)
    mask[:, :12, :20] = True
    return mask


def covered(name: str) -> bytes:
    content, _ = pixels.covered_object(samples.dicom(name), MAPPING, corner, says_clean=True)
    assert content is not None
    return content


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

    content, _ = pixels.covered_object(header.write(source), MAPPING, look, says_clean=True)

    assert content is not None
    assert seen == [(3, 128, 128, 3)]
    after = pixel_array(header.read(content))
    assert len({int(value) for value in after[:, :12, :20].ravel()}) == 1


def test_what_a_person_must_see_first_is_not_written() -> None:
    content, counts = pixels.covered_object(
        samples.dicom("CT_small.dcm"), MAPPING, lambda frames: None, says_clean=True
    )

    assert content is None
    assert counts


def test_pixels_that_need_a_codec_are_not_passed_through() -> None:
    content, _ = pixels.covered_object(
        samples.dicom("693_J2KI.dcm"), MAPPING, corner, says_clean=True
    )

    assert content is None


def test_a_second_run_gives_the_same_file() -> None:
    once = covered("CT_small.dcm")

    again, counts = pixels.covered_object(once, MAPPING, corner, says_clean=True)

    assert again == once
    assert counts == {}
