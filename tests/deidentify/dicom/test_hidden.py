"""What the window of an object hides is looked at before the object leaves."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from django.core.management import call_command
from pydicom import Dataset
from pydicom.sequence import Sequence

from tests.decode import samples
from tests.deidentify.test_command import a_key_file
from tests.deidentify.writing import written
from workers.decode.stored import Stretch, stored_frames
from workers.deidentify.dicom import header, pixels
from workers.deidentify.dicom.hidden import hidden_views
from workers.deidentify.dicom.mapping import Mapping

SIDE = 160
INK = written(np.zeros((SIDE, SIDE, 3), np.uint8), "MUELLER", (20, 60), size=24)[..., 0] > 127
CLEAR = 40  # grey levels between writing and what it stands on


def with_ink(ground: int, ink: int) -> npt.NDArray[np.uint16]:
    """Anatomy above, one value below; the word stands on the latter."""
    values = np.full((SIDE, SIDE), ground, np.uint16)
    values[:40] = np.linspace(0, 4095, SIDE).astype(np.uint16)
    values[INK] = ink
    return values


def plateau() -> Sequence:
    """A VOI LUT that shows all values from 1000 to 3000 as one grey (PS3.3 C.11.2.1.1)."""
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 8]
    steps = np.interp(np.arange(4096), [0, 1000, 3000, 4095], [0, 120, 120, 255])
    lut.LUTData = steps.astype("<u2").tobytes()
    return Sequence([lut])


def best_contrast(stretch: Stretch) -> float:
    """The clearest any picture shows the word, of the frame's own and those beside it."""
    frames = [stretch.shown[0, ..., 0], *(view[0] for _, view in hidden_views(stretch))]
    return max(abs(float(f[INK].mean()) - float(f[50:][~INK[50:]].mean())) for f in frames)


@pytest.mark.parametrize(
    ("ground", "ink", "attributes"),
    [
        (3000, 4095, {"WindowCenter": 500, "WindowWidth": 400}),
        (3000, 3040, {"WindowCenter": 500, "WindowWidth": 400}),
        (100, 0, {"WindowCenter": 2500, "WindowWidth": 400}),
        (3000, 4095, {"WindowCenter": 500, "WindowWidth": 400, "RescaleSlope": -1}),
        (
            3000,
            4095,
            {
                "WindowCenter": 500,
                "WindowWidth": 400,
                "PhotometricInterpretation": "MONOCHROME1",
            },
        ),
        (3000, 4095, {"WindowCenter": 500, "WindowWidth": 1, "VOILUTFunction": "LINEAR"}),
        (3000, 4095, {"WindowCenter": 500, "WindowWidth": 60, "VOILUTFunction": "SIGMOID"}),
        (1500, 1900, {"VOILUTSequence": plateau()}),
    ],
)
def test_what_one_window_hides_another_shows(
    ground: int, ink: int, attributes: dict[str, object]
) -> None:
    (stretch,) = stored_frames(samples.grey_dicom(with_ink(ground, ink), **attributes))

    assert best_contrast(stretch) > CLEAR


def test_one_bright_spot_does_not_hide_the_rest() -> None:
    values = with_ink(40, 80) // 2
    values[0, 0] = 65_535

    (stretch,) = stored_frames(samples.grey_dicom(values))

    assert best_contrast(stretch) > CLEAR


def test_colours_of_a_palette_may_be_the_same() -> None:
    (stretch,) = stored_frames(samples.dicom("examples_palette.dcm"))
    values = np.full((1, SIDE, SIDE), 7, np.uint8)
    values[0, INK] = 9
    hidden = replace(stretch, values=values, shown=np.zeros((1, SIDE, SIDE, 3), np.uint8))

    assert best_contrast(hidden) > CLEAR


def test_sixteen_bits_of_a_colour_are_more_than_eight() -> None:
    values = np.full((1, SIDE, SIDE, 3), 5, np.uint16)
    values[0, INK] = 90
    (frame,) = stored_frames(samples.dicom("SC_rgb_rle_16bit.dcm"))
    dark = replace(frame, values=values, shown=np.zeros((1, SIDE, SIDE, 3), np.uint8))

    ((_, view),) = hidden_views(dark)

    assert view[0][INK].min() - view[0][~INK].max() > CLEAR


@pytest.mark.parametrize("ink", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_told_from_numbers(ink: float) -> None:
    (stretch,) = stored_frames(samples.grey_dicom(with_ink(3000, 3000)))
    values = stretch.values.astype("<f4")
    values[0, INK] = ink
    shown = np.zeros((1, SIDE, SIDE, 3), np.uint8)

    assert best_contrast(replace(stretch, values=values, shown=shown)) > CLEAR


def test_a_picture_of_all_values_is_looked_at_once() -> None:
    eight_bits = np.tile(np.arange(SIDE, dtype=np.uint16), (SIDE, 1))
    (stretch,) = stored_frames(samples.grey_dicom(eight_bits))
    (whole_range,) = stored_frames(samples.dicom("CT_small.dcm"))

    assert list(hidden_views(stretch)) == []
    assert list(hidden_views(whole_range)) == []


def test_each_way_to_show_the_frames_is_looked_at_and_covered() -> None:
    content = samples.grey_dicom(with_ink(3000, 4095), WindowCenter=500, WindowWidth=400)
    looks: list[tuple[int, ...]] = []

    def look(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        looks.append(frames.shape)
        # Where something is white on what is not: the window's picture shows no such thing.
        return np.asarray((frames[0, ..., 0] > 200) & (frames[0, 100:, ..., 0].max() < 200))

    covered = pixels.covered_object(content, Mapping(b"k" * 32), look, says_clean=True)

    assert len(looks) > 1
    assert set(looks) == {(1, SIDE, SIDE, 3)}
    assert covered.content is not None
    assert (header.read(covered.content).pixel_array[INK] == 0).all()


@pytest.mark.parametrize(("ground", "ink"), [(3000, 4095), (200, 0)])
def test_a_name_outside_the_window_does_not_leave_with_the_object(
    tmp_path: Path, ground: int, ink: int
) -> None:
    centre = 500 if ink else 2500
    (tmp_path / "a.dcm").write_bytes(
        samples.grey_dicom(with_ink(ground, ink), WindowCenter=centre, WindowWidth=400)
    )
    call_command(
        "deidentify",
        tmp_path / "a.dcm",
        output=tmp_path / "out",
        profile="clinical",
        key_file=a_key_file(tmp_path),
        stdout=io.StringIO(),
    )

    left = header.read((next((tmp_path / "out").glob("*.dcm"))).read_bytes()).pixel_array
    down, across = np.nonzero(INK)
    box = np.s_[down.min() : down.max() + 1, across.min() : across.max() + 1]
    assert (left[box] == 0).mean() > 0.95  # the darkest value it has, over letters and between
    assert (left[120:] == ground).all()
