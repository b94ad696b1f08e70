"""DICOM images come out as a viewer would show them; everything else in DICOM has no pixels."""

import time
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import Reason, Rejected
from tests.decode import samples
from workers.decode.sandbox import Decoded, decode

RAMP = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))


def ends(decoded: Decoded) -> tuple[int, int]:
    """The grey levels at the left and right of a ramp."""
    return int(decoded.pixels[0, 0, 0]), int(decoded.pixels[0, -1, 0])


def test_every_file_of_pydicom_gives_pixels_or_one_reason_in_time() -> None:
    files = [path for path in samples.DICOM_DATA.rglob("*") if path.is_file()]
    answers: dict[Path, Decoded | Reason] = {}
    for path in files:
        started = time.monotonic()
        try:
            answers[path] = decode(path.read_bytes())
        except Rejected as exc:
            answers[path] = exc.reason
        assert time.monotonic() - started < 5

    pictures = [answer for answer in answers.values() if isinstance(answer, Decoded)]
    assert len(answers) > 150
    assert len(pictures) >= 85
    assert {picture.media_type for picture in pictures} == {"application/dicom"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CT_small.dcm", (128, 128, 3)),
        ("MR_small_RLE.dcm", (64, 64, 3)),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64, 3)),
        ("MR_small_bigendian.dcm", (64, 64, 3)),
        ("693_J2KI.dcm", (512, 512, 3)),
        ("SC_rgb_jpeg_gdcm.dcm", (100, 100, 3)),
        ("examples_palette.dcm", (350, 800, 3)),
        ("image_dfl.dcm", (512, 512, 3)),
        ("liver_1frame.dcm", (512, 512, 3)),
    ],
)
def test_each_way_of_writing_pixels_is_read(name: str, shape: tuple[int, ...]) -> None:
    pixels = decode(samples.dicom(name)).pixels

    assert pixels.shape == shape
    assert pixels.std() > 10


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_a_data_set_without_preamble_and_meta_information_is_read(
    implicit: bool, little: bool
) -> None:
    decoded = decode(samples.bare_dicom(implicit=implicit, little=little))

    assert decoded.media_type == "application/dicom"
    assert np.array_equal(decoded.pixels, decode(samples.dicom("CT_small.dcm")).pixels)


@pytest.mark.parametrize(
    "name",
    ["SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_ybr_full_422_uncompressed.dcm"],
)
def test_luminance_and_chrominance_become_red_green_and_blue(name: str) -> None:
    rgb = decode(samples.dicom("SC_rgb_gdcm_KY.dcm")).pixels.astype(int)

    assert np.abs(decode(samples.dicom(name)).pixels - rgb).mean() < 6


def test_without_a_window_the_values_fill_the_range() -> None:
    assert ends(decode(samples.grey_dicom(RAMP))) == (0, 255)


def test_the_first_window_is_applied_after_rescaling() -> None:
    content = samples.grey_dicom(
        RAMP,
        RescaleSlope="1",
        RescaleIntercept="-1024",
        WindowCenter=["1023.5", "40"],
        WindowWidth=["8190", "80"],
    )

    left, right = ends(decode(content))

    assert left == pytest.approx(255 * (-1024 + 3072) / 8190, abs=2)
    assert right == pytest.approx(255 * (3071 + 3072) / 8190, abs=2)


def test_monochrome1_is_inverted() -> None:
    content = samples.grey_dicom(RAMP, PhotometricInterpretation="MONOCHROME1")

    assert ends(decode(content)) == (255, 0)


def test_padding_does_not_count_for_the_range() -> None:
    padded = RAMP.copy()
    padded[0, 1] = 65535

    assert ends(decode(samples.grey_dicom(padded, PixelPaddingValue=65535))) == (0, 255)


@pytest.mark.parametrize(("said", "meant"), [("YES", True), ("NO", False), ("", None)])
def test_what_the_header_says_about_burned_in_text_is_kept(said: str, meant: bool | None) -> None:
    assert decode(samples.grey_dicom(RAMP, BurnedInAnnotation=said)).burned_in is meant


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_the_modality_is_kept_only_if_it_is_a_code() -> None:
    assert decode(samples.grey_dicom(RAMP)).modality == "CT"
    assert decode(samples.grey_dicom(RAMP, Modality="DOE^JANE")).modality is None


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7.4"),
        ("ConversionType", "WSD"),
        ("ImageType", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    ],
)
def test_a_copied_screen_is_told_from_a_measurement(keyword: str, value: object) -> None:
    assert decode(samples.grey_dicom(RAMP, **{keyword: value})).copied_screen
    assert not decode(samples.grey_dicom(RAMP)).copied_screen
