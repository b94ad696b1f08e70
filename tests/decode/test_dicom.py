"""DICOM images come out as a viewer would show them; everything else in DICOM has no pixels."""

import io
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence

from retrieval.errors import Reason, Rejected
from tests.decode import samples
from workers.decode.sandbox import Decoded, decode
from workers.decode.stored import stored_frames

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


def test_jpeg_of_twelve_bits_is_read() -> None:
    """Two values are those that other decoders find, by pydicom's tests."""
    content = samples.dicom("JPGExtended.dcm")

    (stretch,) = stored_frames(content)

    assert stretch.values.shape == (1, 1024, 256)
    assert (stretch.values[0, 420, 140], stretch.values[0, 230, 120]) == (244, 95)
    assert decode(content).pixels.std() > 10


def test_jpeg_of_twelve_bits_and_another_size_is_refused() -> None:
    content = samples.dicom("JPGExtended.dcm")
    at = content.index(b"\xff\xc1") + 5
    tall = content[:at] + b"\x08\0" + content[at + 2 :]

    with pytest.raises(Rejected, match="decode_failed"):
        decode(tall)


@pytest.mark.parametrize(
    "name",
    ["SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_ybr_full_422_uncompressed.dcm"],
)
def test_luminance_and_chrominance_become_red_green_and_blue(name: str) -> None:
    rgb = decode(samples.dicom("SC_rgb_gdcm_KY.dcm")).pixels.astype(int)

    assert np.abs(decode(samples.dicom(name)).pixels - rgb).mean() < 6


def as_pydicom_shows(content: bytes) -> npt.NDArray[np.float64]:
    """The first frame by pydicom's own tables and windows, as (H, W, 3) from 0 to 255."""
    dataset = dcmread(io.BytesIO(content))
    frame = pixel_array(dataset, index=0)
    if frame.ndim == 3:
        return np.asarray(frame * (255 / (2**dataset.BitsStored - 1)))
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        coloured = apply_color_lut(frame, dataset)
        return np.asarray(coloured * (255 / np.iinfo(coloured.dtype).max))
    values = apply_modality_lut(frame, dataset)
    shown = apply_voi_lut(values, dataset, index=0).astype(float)
    if "VOILUTSequence" in dataset:
        ends = np.array([0.0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1])
    elif "WindowWidth" in dataset:
        # pydicom spreads a window over all values that the bits could say.
        least = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
        could = np.array([least, least + 2**dataset.BitsStored - 1], float)
        ends = could * dataset.get("RescaleSlope", 1) + dataset.get("RescaleIntercept", 0)
    else:
        known = values[frame != dataset.get("PixelPaddingValue")].astype(float)
        ends = np.array([known.min(), known.max()])
    grey = ((shown - ends.min()) * (255 / np.ptp(ends))).clip(0, 255)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    inverted |= dataset.get("PresentationLUTShape") == "INVERSE"
    return np.repeat((255 - grey if inverted else grey)[..., None], 3, axis=2)


def table(*outputs: float, bits: int) -> Sequence:
    """A lookup table of 4096 values, straight between `outputs` (PS3.3 C.11.1.1)."""
    item = Dataset()
    item.LUTDescriptor = [4096, 0, bits]
    steps = np.interp(np.arange(4096), np.linspace(0, 4095, len(outputs)), outputs)
    item.LUTData = steps.astype("<u2").tobytes()
    return Sequence([item])


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI.dcm",  # a window
        "CT_small.dcm",  # padding
        "MR_small_bigendian.dcm",
        "examples_overlay.dcm",
        "examples_palette.dcm",
        "examples_ybr_color.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "image_dfl.dcm",
        "liver_1frame.dcm",
    ],
)
def test_a_file_is_shown_as_pydicom_shows_it(name: str) -> None:
    content = samples.dicom(name)

    assert np.abs(decode(content).pixels - as_pydicom_shows(content)).max() <= 1


@pytest.mark.parametrize(
    "attributes",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"WindowCenter": 2000, "WindowWidth": 900},
        {"WindowCenter": [2000, 40], "WindowWidth": [900, 80]},
        {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
        {
            "WindowCenter": -300,
            "WindowWidth": 400,
            "RescaleSlope": 0.5,
            "RescaleIntercept": -1024,
            "PhotometricInterpretation": "MONOCHROME1",
        },
        {"RescaleSlope": -1, "RescaleIntercept": 4095},
        {"ModalityLUTSequence": table(0, 9000, 60_000, bits=16), "ModalityLUTType": "OD"},
        {"VOILUTSequence": table(0, 200, 220, 255, bits=8)},
        {"VOILUTSequence": table(4000, 0, 4095, bits=12)},
        {"PixelPaddingValue": 0},
    ],
    ids=" ".join,
)
def test_tables_and_windows_are_applied_as_pydicom_applies_them(
    attributes: dict[str, object],
) -> None:
    content = samples.grey_dicom(RAMP, **attributes)

    assert np.abs(decode(content).pixels - as_pydicom_shows(content)).max() <= 1


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
