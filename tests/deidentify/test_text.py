"""Writing in the picture is covered, read or not; only what a profile allows by name stays."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import zxingcpp
from PIL import Image

from retrieval.errors import Reason
from tests.decode import samples
from tests.deidentify.writing import code, pasted, slice_of_a_body, written
from workers.decode.sandbox import Decoded, decode
from workers.deidentify import codes
from workers.deidentify.allowed import check_entry, is_allowed
from workers.deidentify.codes import ZxingCodes
from workers.deidentify.faces import Face
from workers.deidentify.marks import Mark, Pixels, cover_marks
from workers.deidentify.measure_codes import is_hidden
from workers.deidentify.measure_codes import printed as printed_codes
from workers.deidentify.measure_text import measure
from workers.deidentify.text import RapidText, Reading
from workers.deidentify.verdict import (
    PROFILES,
    Detectors,
    Profile,
    deidentify,
    deidentify_frames,
    detectors_for,
)

CLINICAL = PROFILES["clinical"]
GREY = Decoded(np.full((200, 300, 3), 90, np.uint8), 1, "image/png")
NOTHING = Reading("", 0.0)
SCAN = replace(GREY, media_type="application/dicom", modality="US")


class Nobody:
    """No faces: these tests are about writing."""

    name = "nobody"

    def detect(self, pixels: Pixels) -> list[Face]:
        return []


@dataclass
class Scripted:
    """A text detector whose findings are given, for the first look and for the second.

    The real one cannot be made to miss or fail on demand.
    """

    first: list[Mark]
    second: list[Mark]
    words: Reading = NOTHING
    fails: bool = False

    def find(self, pixels: Pixels) -> tuple[Mark, ...]:
        return tuple(self.first)

    def find_again(self, pixels: Pixels) -> tuple[Mark, ...]:
        if self.fails:
            raise RuntimeError
        return tuple(self.second)

    def read(self, pixels: Pixels, mark: Mark) -> Reading:
        return self.words


def mark(x: int, y: int, w: int = 60, h: int = 20) -> Mark:
    return Mark(((x, y), (x + w, y), (x + w, y + h), (x, y + h)), 0.9, "text", "scripted")


def scripted(*first: Mark, second: tuple[Mark, ...] = (), **fields: object) -> Detectors:
    return Detectors(Nobody(), Scripted(list(first), list(second), **fields))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def text() -> RapidText:
    return RapidText()


def test_a_name_over_a_body_is_covered_and_little_else_changes(text: RapidText) -> None:
    plain = slice_of_a_body()
    burned = written(plain, "DOE, JANE 1970-01-02", (20, 20), size=14)
    ink = (burned != plain).any(axis=2)

    result = deidentify(
        Decoded(burned, 1, "application/dicom", "CT", True), CLINICAL, Detectors(Nobody(), text)
    )

    assert (result.verdict, result.reason) == ("released", None)
    assert not result.pixels[ink].any()
    assert (result.pixels[60:] != plain[60:]).mean() < 0.03


def test_planted_words_of_any_size_turn_and_contrast_are_found_and_unreadable_after(
    text: RapidText,
) -> None:
    measured = measure([slice_of_a_body()], text, seed=3)

    assert measured["readable_after_covering"] == 0
    located: dict[str, dict[str, float]] = measured["located"]  # type: ignore[assignment]
    found = sum(row["words"] * row["share"] for row in located.values())
    assert found >= 0.95 * sum(row["words"] for row in located.values())


def test_writing_as_high_as_a_hand_is_found(text: RapidText) -> None:
    poster = np.full((300, 1400, 3), 200, np.uint8)
    burned = written(poster, "MUELLER", (60, 20), size=230, grey=20)
    ink = (burned != poster).any(axis=2)

    covered = cover_marks(burned, text.find(burned))

    assert (covered[ink] == 0).all(axis=1).mean() > 0.9


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm"])
def test_a_body_is_no_letter_however_round_it_is(text: RapidText, name: str) -> None:
    plain = decode(samples.dicom(name)).pixels

    covered = cover_marks(plain, text.find(plain))

    assert (covered != plain).any(axis=2).mean() < 0.1


def test_words_that_fill_a_picture_are_found(text: RapidText) -> None:
    plain = np.full((420, 420, 3), 220, np.uint8)
    burned = written(
        written(plain, "JANE", (15, 30), size=150, grey=20), "DOE", (15, 200), size=150
    )
    ink = (burned != plain).any(axis=2)

    assert not cover_marks(burned, text.find(burned))[ink].any()


def test_writing_that_differs_in_colour_alone_is_found(text: RapidText) -> None:
    """Both colours have the same grey."""
    plain = np.full((160, 320, 3), (200, 40, 60), np.uint8)
    ink = (written(plain, "MRN 4711002", (30, 60), size=24) != plain).any(axis=2)
    burned = plain.copy()
    burned[ink] = (20, 128, 48)

    assert not cover_marks(burned, text.find(burned))[ink].any()


def test_side_marks_and_scale_bars_stay_and_a_name_beside_them_does_not(text: RapidText) -> None:
    plain = np.full((300, 500, 3), 20, np.uint8)
    marked = written(written(plain, "R", (30, 30), size=32), "10 cm", (380, 250), size=24)
    burned = written(marked, "JONES R", (180, 120), size=24)
    name = (burned != marked).any(axis=2)

    result = deidentify(Decoded(burned, 1, "image/png"), CLINICAL, Detectors(Nobody(), text))

    assert not result.pixels[name].any()
    assert np.array_equal(result.pixels[:100], marked[:100])
    assert np.array_equal(result.pixels[220:], marked[220:])
    strict = replace(CLINICAL, text_allowed=())
    everything = deidentify(Decoded(burned, 1, "image/png"), strict, Detectors(Nobody(), text))
    assert not (everything.pixels > 30).any()


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        ("L", True),
        ("r", True),
        ("10 cm", True),
        ("2.5cm", True),
        ("LR", False),
        ("JONES R", False),
        ("L 1970", False),
        ("1970 cm", False),
        ("10", False),
        ("cm", False),
        ("", False),
    ],
)
def test_all_of_the_words_are_one_entry_or_they_go(words: str, stays: bool) -> None:
    assert is_allowed(words, CLINICAL.text_allowed) is stays


@pytest.mark.parametrize("entry", ["", " ", "#", "#.#", "12", "##cm", "# # cm", "a" * 25])
def test_an_entry_that_would_let_numbers_stay_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_entry(entry)
    with pytest.raises(ValueError, match="must"):
        Profile("lax", cover_text=True, text_allowed=(entry,))


def test_no_entry_takes_long_to_match() -> None:
    assert not is_allowed("1" * 100_000, ["#a#a#a#a#a#a#a#a#a#a"])


def test_a_mark_that_is_not_read_is_covered() -> None:
    result = deidentify(GREY, CLINICAL, scripted(mark(20, 20)))

    assert result.verdict == "released"
    assert not result.pixels[20:41, 20:81].any()


@pytest.mark.parametrize(
    ("reading", "stays"),
    [(Reading("R", 0.95), True), (Reading("R", 0.7), False), (Reading("X", 0.95), False)],
)
def test_only_what_is_surely_read_stays(reading: Reading, stays: bool) -> None:
    result = deidentify(GREY, CLINICAL, scripted(mark(20, 20, 24, 20), words=reading))

    assert bool(result.pixels[30, 30].any()) is stays


def test_a_mark_too_long_for_what_was_read_of_it_is_covered() -> None:
    result = deidentify(GREY, CLINICAL, scripted(mark(20, 20, 200), words=Reading("R", 0.99)))

    assert not result.pixels[30, 30].any()


def test_a_word_that_is_read_after_covering_is_covered_too_and_asks_a_person() -> None:
    left = scripted(second=(mark(100, 100),), words=Reading("DOE", 0.9))

    result = deidentify(GREY, CLINICAL, left)

    assert (result.verdict, result.reason) == ("review", Reason.TEXT_STILL_FOUND)
    assert not result.pixels[100:121, 100:161].any()


@pytest.mark.parametrize("words", [Reading("DO", 0.9), Reading("DOE", 0.3), Reading("-.:", 0.9)])
def test_what_nobody_reads_after_covering_is_covered_and_asks_nobody(words: Reading) -> None:
    result = deidentify(GREY, CLINICAL, scripted(second=(mark(100, 100),), words=words))

    assert result.verdict == "released"
    assert not result.pixels[100:121, 100:161].any()


def test_a_failing_text_detector_shows_nothing_and_asks_a_person() -> None:
    result = deidentify(GREY, CLINICAL, scripted(fails=True))

    assert (result.verdict, result.reason) == ("review", Reason.DETECTOR_FAILED)
    assert not result.pixels.any()


@pytest.mark.parametrize(
    ("scan", "found", "verdict"),
    [
        (SCAN, False, "released"),
        (replace(SCAN, burned_in=True), True, "released"),
        (replace(SCAN, burned_in=True), False, "review"),
        (replace(SCAN, burned_in=False), False, "released"),
    ],
)
def test_a_header_that_speaks_of_writing_none_found_asks_a_person(
    scan: Decoded, found: bool, verdict: str
) -> None:
    marks = [mark(20, 20)] if found else []

    assert deidentify(scan, CLINICAL, scripted(*marks)).verdict == verdict


def test_profiles_that_cover_no_writing_leave_it_and_look_for_none() -> None:
    for name in ("photographs", "documents"):
        assert detectors_for(PROFILES[name]).text is None
        assert not PROFILES[name].cover_text


def test_a_word_in_one_frame_is_covered_in_all(text: RapidText) -> None:
    still = np.full((64, 160, 3), 30, np.uint8)
    frames = np.stack([still] * 12)
    frames[7] = written(still, "MRN 4711002", (20, 24), size=16)
    ink = (frames[7] != still).any(axis=2)

    result = deidentify_frames(frames, CLINICAL, Detectors(Nobody(), text))

    assert result.verdict == "released"
    assert not result.frames[:, ink].any()


def test_the_last_frame_is_looked_at_again_as_the_first_is() -> None:
    class LastFrame(Scripted):
        def find_again(self, pixels: Pixels) -> tuple[Mark, ...]:
            return (mark(20, 20),) if pixels[50, 100, 0] == 7 else ()

    frames = np.full((3, 100, 200, 3), 90, np.uint8)
    frames[2, 50, 100] = 7

    result = deidentify_frames(
        frames, CLINICAL, Detectors(Nobody(), LastFrame([], [], Reading("DOE", 0.9)))
    )

    assert (result.verdict, result.reason) == ("review", Reason.TEXT_STILL_FOUND)
    assert not result.frames[:, 20:41, 20:81].any()


@pytest.mark.parametrize("kind", ["QRCode", "Code128", "DataMatrix", "PDF417", "Aztec", "Code39"])
@pytest.mark.parametrize("turns", [0, 1])
def test_a_code_is_covered_wholly(kind: str, turns: int) -> None:
    made = np.rot90(code("MRN4711002", kind), turns)
    plain = np.full((660, 660, 3), 120, np.uint8)
    decoded = Decoded(pasted(plain, made, (60, 70)), 1, "image/png")

    result = deidentify(decoded, CLINICAL, Detectors(Nobody(), None, ZxingCodes()))

    dark = np.zeros(plain.shape[:2], bool)
    dark[70 : 70 + made.shape[0], 60 : 60 + made.shape[1]] = made[..., 0] == 0
    assert result.verdict == "released"
    assert {found.kind for found in result.boxes.codes} == {"code"}
    white_left = (result.pixels[dark_box(dark)] == 255).mean()
    assert white_left == 0


def dark_box(ink: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.nonzero(ink)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def test_small_light_and_slanted_codes_are_found() -> None:
    small = code("MRN4711002", "QRCode", scale=2)
    light = 255 - code("MRN4711002", "DataMatrix", scale=4)
    slanted = np.asarray(
        Image.fromarray(code("MRN4711002", "Code128")).rotate(40, expand=True, fillcolor="white")
    )
    for made in (small, light, slanted):
        shown = pasted(np.full((560, 640, 3), 200, np.uint8), made, (80, 80))
        assert ZxingCodes().find(shown), made.shape


@pytest.mark.parametrize("kind", ["QRCode", "Code128", "DataMatrix"])
def test_a_faint_code_is_found(kind: str) -> None:
    """Light grey on a label that is hardly lighter, upon anatomy, a little turned."""
    found = [
        is_hidden(printed, ZxingCodes())
        for printed in printed_codes([slice_of_a_body()], seed=1)
        if printed.kind.replace(" ", "").lower() == kind.lower() and "faint" in printed.condition
    ]

    assert found == [True, True]


def test_stripes_are_covered_as_far_as_they_reach_though_one_line_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = pasted(np.full((400, 600, 3), 120, np.uint8), code("MRN4711002", "Code128"), (60, 90))
    left, right = SimpleNamespace(x=100, y=160), SimpleNamespace(x=440, y=160)
    line = SimpleNamespace(top_left=left, top_right=right, bottom_right=right, bottom_left=left)
    read = SimpleNamespace(position=line, valid=True, format=zxingcpp.BarcodeFormat.Code128)
    monkeypatch.setattr(codes, "_looks", lambda grey: [(grey, np.eye(2, 3), [read])])

    covered = cover_marks(picture, ZxingCodes().find(picture))

    assert not covered[95:235, 100:440].any()


def test_what_only_looks_like_a_code_is_none() -> None:
    """Bars that cannot be read, and a matrix of a size there is none of; a damaged one counts."""
    linear, matrix = zxingcpp.BarcodeFormat.Code128, zxingcpp.BarcodeFormat.DataMatrix
    checksum, form = zxingcpp.ErrorType.Checksum, zxingcpp.ErrorType.Format
    seen: list[Any] = [
        SimpleNamespace(format=format_, error=SimpleNamespace(type=error))
        for format_, error in ((linear, checksum), (matrix, form), (matrix, checksum))
    ]

    assert [codes._is_invented(code) for code in seen] == [True, True, False]


def test_a_damaged_code_is_found_and_what_one_view_alone_shows_is_none() -> None:
    damaged = code("MRN4711002", "DataMatrix", scale=3).copy()
    damaged[26:44, 26:44] = 200
    shown = pasted(slice_of_a_body(), damaged, (80, 80))
    here, there = replace(mark(20, 20), kind="code"), replace(mark(200, 20), kind="code")

    assert ZxingCodes().find(shown)
    assert codes._confirmed([(here, False), (there, False)]) == []
    assert codes._confirmed([(here, False), (there, True), (here, False)]) == [here, there, here]


@pytest.mark.parametrize(
    ("sides", "believed"), [((20, 21), True), ((20, 30), False), ((11, 11), False)]
)
def test_one_view_is_enough_for_a_small_square(sides: tuple[int, int], believed: bool) -> None:
    across, down = sides
    corners = np.array([(0, 0), (across, 0), (across, down), (0, down)], np.float64)

    assert codes._is_small_square(corners) == believed
    assert not codes._is_small_square(corners * 20)


@pytest.mark.parametrize(
    ("degrees", "side", "dropped"), [(30, 95, True), (30, 70, False), (0, 95, False)]
)
def test_a_slanted_view_that_takes_the_picture_for_a_code_is_not_believed(
    *, degrees: float, side: int, dropped: bool
) -> None:
    back = cv2.getRotationMatrix2D((50, 50), degrees, 1.0).astype(np.float64)
    square = np.array([[0, 0], [side, 0], [side, side], [0, side]], float)
    turned = cv2.invertAffineTransform(back).astype(np.float64)
    seen = codes._affine(square, turned)

    assert codes._is_picture(seen, back, np.zeros((100, 100), np.uint8)) == dropped


def test_a_code_that_is_still_found_asks_a_person() -> None:
    class Insists:
        def find(self, pixels: Pixels) -> tuple[Mark, ...]:
            return (mark(20, 20),)

    result = deidentify(GREY, CLINICAL, Detectors(Nobody(), None, Insists()))

    assert (result.verdict, result.reason) == ("review", Reason.CODE_STILL_FOUND)


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "MR_small.dcm"])
def test_anatomy_shows_no_codes(name: str) -> None:
    assert ZxingCodes().find(decode(samples.dicom(name)).pixels) == ()
