"""A picture is released only when a second look finds nobody; else a person decides."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from retrieval.errors import Reason
from tests.decode import samples
from workers.decode.sandbox import Decoded, decode
from workers.deidentify.faces import Face, Pixels, Union, union
from workers.deidentify.marks import Mark, cover_marks
from workers.deidentify.obscure import Shape, Style
from workers.deidentify.verdict import (
    PROFILES,
    Boxes,
    Detectors,
    Profile,
    deidentify,
    deidentify_frames,
    detector_for,
)

PROFILE = PROFILES["photographs"]
PHOTOGRAPH = Decoded(samples.noise(64, 64), 1, "image/png")
SLICE = Decoded(samples.noise(64, 64), 1, "application/dicom", "CT", None)


@dataclass
class Scripted:
    """A detector whose answers are given, look by look; the last is given for ever.

    The real one cannot be made to miss, fail or insist on demand.
    """

    answers: list[list[Face] | Exception]
    seen: list[Pixels] = field(default_factory=list)
    name: str = "scripted"

    def detect(self, pixels: Pixels) -> list[Face]:
        self.seen.append(pixels.copy())
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


FACE = Face((10, 10, 20, 20), 0.9, "scripted")
OTHER = Face((40, 40, 10, 10), 0.8, "scripted")
NOBODY: list[Face] = []


@pytest.fixture(scope="module")
def detector() -> Union:
    return union()


@pytest.mark.parametrize("shape", ["box", "ellipse"])
@pytest.mark.parametrize("style", ["solid", "mosaic"])
def test_the_astronaut_is_released_with_the_face_covered(
    detector: Union, style: Style, shape: Shape
) -> None:
    whole = decode(samples.picture("astronaut.png"))
    decoded = replace(whole, pixels=whole.pixels[:256, 100:356])
    profile = Profile("test", cover=style, shape=shape)

    for _ in range(3 if style == "mosaic" else 1):
        result = deidentify(decoded, profile, Detectors(detector))

        assert (result.verdict, result.reason) == ("released", None)
        # Of a mosaic at most 36 colours, and black where the later look covered an edge of it.
        assert len(np.unique(result.pixels[75:170, 90:160].reshape(-1, 3), axis=0)) <= 37
        # What a later look is unsure of, as of a mosaic's colours, is covered too.
        kept = (result.pixels[230:] == decoded.pixels[230:]).all(axis=-1).mean()
        assert kept == 1 if style == "solid" else kept > 0.5


@pytest.mark.parametrize("name", ["camera.png", "coffee.png"])
def test_covers_themselves_do_not_send_pictures_to_review(detector: Union, name: str) -> None:
    assert (
        deidentify(decode(samples.picture(name)), PROFILE, Detectors(detector)).verdict
        == "released"
    )


def test_a_turned_astronaut_is_released_with_the_face_covered(detector: Union) -> None:
    with Image.open(samples.PICTURES / "astronaut.png") as image:
        lying = np.asarray(image.convert("RGB").rotate(90))

    result = deidentify(Decoded(lying, 1, "image/png"), PROFILE, Detectors(detector))

    assert result.verdict == "released"
    assert not result.pixels[242:332, 65:180].any()


def test_the_second_look_is_at_the_covered_pixels() -> None:
    detector = Scripted([[FACE], NOBODY])

    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(detector))

    assert result.verdict == "released"
    assert np.array_equal(detector.seen[1], result.pixels)
    assert not result.pixels[10:30, 10:30].any()


def test_a_face_found_only_by_the_second_look_is_covered_too_and_asks_a_person() -> None:
    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(Scripted([[FACE], [OTHER]])))

    assert (result.verdict, result.reason) == ("review", Reason.FACE_STILL_FOUND)
    assert result.boxes.faces == (FACE, OTHER)
    assert not result.pixels[40:50, 40:50].any()


def test_pixels_in_which_nothing_is_covered_are_not_looked_at_twice() -> None:
    detector = Scripted([NOBODY])

    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(detector))

    assert (result.verdict, len(detector.seen)) == ("released", 1)


def test_a_face_that_is_still_found_sends_the_picture_to_review() -> None:
    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(Scripted([[FACE], [FACE, OTHER]])))

    assert (result.verdict, result.reason) == ("review", Reason.FACE_STILL_FOUND)
    assert not result.pixels[40:50, 40:50].any()


@pytest.mark.parametrize("style", ["solid", "mosaic"])
def test_what_the_second_look_sees_in_a_cover_is_no_face(style: Style) -> None:
    profile = Profile("test", cover=style)

    result = deidentify(
        PHOTOGRAPH, profile, Detectors(Scripted([[FACE], [Face((8, 8, 20, 20), 0.9, "s")]]))
    )

    assert (result.verdict, result.boxes.faces) == ("released", (FACE,))


@pytest.mark.parametrize(
    "box", [(8, 26, 20, 20), (0, 0, 64, 64), (27, 27, 20, 20)], ids=["half", "around", "corner"]
)
def test_what_reaches_out_of_a_cover_is_a_face(box: tuple[int, int, int, int]) -> None:
    result = deidentify(
        PHOTOGRAPH, PROFILE, Detectors(Scripted([[FACE], [Face(box, 0.9, "scripted")]]))
    )

    assert (result.verdict, result.reason) == ("review", Reason.FACE_STILL_FOUND)
    x, y, w, h = box
    assert not result.pixels[y : y + h, x : x + w].any()


AT_THE_EDGE = Face((14, 22, 16, 20), 0.3, "scripted")  # 13 of its 20 rows lie under FACE's cover


def test_what_is_taken_from_a_covers_edge_is_covered_and_looked_at_once_more() -> None:
    detector = Scripted([[FACE], [AT_THE_EDGE], NOBODY])

    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(detector))

    assert (result.verdict, result.reason) == ("released", None)
    assert result.boxes.faces == (FACE, AT_THE_EDGE)
    assert not result.pixels[22:42, 14:30].any()
    assert np.array_equal(detector.seen[2], result.pixels)


@pytest.mark.parametrize("third", [OTHER, Face((22, 34, 16, 20), 0.3, "scripted")], ids=str)
def test_whatever_the_third_look_still_finds_is_for_a_person(third: Face) -> None:
    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(Scripted([[FACE], [AT_THE_EDGE], [third]])))

    assert (result.verdict, result.reason) == ("review", Reason.FACE_STILL_FOUND)
    x, y, w, h = third.box
    assert not result.pixels[y : y + h, x : x + w].any()


def test_what_a_second_look_is_unsure_of_is_covered_and_looked_at_once_more() -> None:
    faint = replace(OTHER, score=0.4)
    detector = Scripted([[FACE], [faint], NOBODY])

    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(detector))

    assert (result.verdict, result.boxes.faces) == ("released", (FACE, faint))
    assert not result.pixels[40:50, 40:50].any()
    assert np.array_equal(detector.seen[2], result.pixels)


def test_what_is_faint_and_stays_after_it_was_covered_is_for_a_person() -> None:
    faint, elsewhere = replace(OTHER, score=0.4), Face((2, 50, 8, 8), 0.31, "scripted")

    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(Scripted([[FACE], [faint], [elsewhere]])))

    assert (result.verdict, result.reason) == ("review", Reason.FACE_STILL_FOUND)
    assert not result.pixels[50:58, 2:10].any()


def test_a_face_beside_one_at_an_edge_is_for_a_person_at_once() -> None:
    result = deidentify(
        PHOTOGRAPH, PROFILE, Detectors(Scripted([[FACE], [AT_THE_EDGE, OTHER], NOBODY]))
    )

    assert (result.verdict, result.reason) == ("review", Reason.FACE_STILL_FOUND)


@pytest.mark.parametrize("shape", ["box", "ellipse"])
@pytest.mark.parametrize("style", ["solid", "mosaic"])
def test_a_cover_that_is_not_in_the_pixels_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, style: Style, shape: Shape
) -> None:
    """A later look would take the face for its own cover, by its place."""
    monkeypatch.setattr("workers.deidentify.verdict.cover", lambda pixels, *_, **__: pixels.copy())

    result = deidentify(
        PHOTOGRAPH, Profile("test", cover=style, shape=shape), Detectors(Scripted([[FACE], [FACE]]))
    )

    assert (result.verdict, result.reason) == ("review", Reason.DETECTOR_FAILED)
    assert not result.pixels.any()


def test_a_mark_that_is_not_covered_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Mark(((2, 50), (20, 50), (20, 58), (2, 58)), 0.9, "text", "held")
    calls: list[Iterable[Mark]] = []

    def forgets_once(pixels: Pixels, marks: Iterable[Mark]) -> Pixels:
        calls.append(marks)
        return pixels.copy() if len(calls) == 1 else cover_marks(pixels, marks)

    monkeypatch.setattr("workers.deidentify.verdict.cover_marks", forgets_once)

    one = deidentify_frames(
        PHOTOGRAPH.pixels[None], PROFILE, Detectors(Scripted([NOBODY])), Boxes(text=(words,))
    )

    assert (one.verdict, one.reason) == ("review", Reason.DETECTOR_FAILED)
    assert not one.frames.any()


def test_a_failing_third_look_shows_nothing() -> None:
    detector = Scripted([[FACE], [AT_THE_EDGE], RuntimeError()])

    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(detector))

    assert (result.verdict, result.reason) == ("review", Reason.DETECTOR_FAILED)
    assert not result.pixels.any()


@pytest.mark.parametrize("answers", [[RuntimeError()], [[FACE], RuntimeError()], [MemoryError()]])
def test_a_failing_detector_shows_nothing_and_asks_a_person(
    answers: list[list[Face] | Exception],
) -> None:
    result = deidentify(PHOTOGRAPH, PROFILE, Detectors(Scripted(answers)))

    assert (result.verdict, result.reason) == ("review", Reason.DETECTOR_FAILED)
    assert result.pixels.shape == PHOTOGRAPH.pixels.shape
    assert not result.pixels.any()


@pytest.mark.parametrize("modality", ["US", "SC", "ES", "XC", "GM", "OT", "XA", "RF", "ZZ", None])
def test_a_dicom_image_that_may_show_writing_is_for_a_person(modality: str | None) -> None:
    result = deidentify(
        replace(SLICE, modality=modality), PROFILE, Detectors(Scripted([[FACE], NOBODY]))
    )

    assert (result.verdict, result.reason) == ("review", Reason.MAY_CARRY_BURNED_IN_TEXT)
    assert not result.pixels[10:30, 10:30].any()


@pytest.mark.parametrize(
    ("decoded", "verdict"),
    [
        (SLICE, "released"),
        (replace(SLICE, burned_in=True), "review"),
        (replace(SLICE, copied_screen=True), "review"),
        (replace(SLICE, modality="US", burned_in=False), "review"),
        (replace(SLICE, copied_screen=True, burned_in=False), "review"),
        (PHOTOGRAPH, "released"),
    ],
    ids=[
        "CT",
        "CT that says so",
        "screen of a CT",
        "US that denies",
        "screen that denies",
        "photo",
    ],
)
def test_what_the_header_says_decides_about_writing(decoded: Decoded, verdict: str) -> None:
    assert deidentify(decoded, PROFILE, Detectors(Scripted([NOBODY]))).verdict == verdict


@pytest.mark.parametrize(
    "lax",
    [
        {"cover": "blur"},
        {"shape": "line"},
        {"mosaic_cells": 7},
        {"mosaic_cells": 0},
        {"margin": 0.09},
        {"margin": float("nan")},
        {"detection_threshold": 0.31},
        {"detection_threshold": 0.0},
        {"detection_threshold": float("nan")},
    ],
    ids=str,
)
def test_a_profile_cannot_be_laxer_than_the_floor(lax: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Profile("lax", **lax)  # type: ignore[arg-type]


def test_every_frame_of_many_is_looked_at() -> None:
    """The second is none of the sampled ones."""

    class InOneFrame(Scripted):
        def detect(self, pixels: Pixels) -> list[Face]:
            return [FACE] if pixels[0, 0, 0] == 7 else []

    frames = np.full((20, 64, 64, 3), 90, np.uint8)
    frames[1, 0, 0] = 7

    result = deidentify_frames(frames, PROFILE, Detectors(InOneFrame([])))

    assert result.boxes.faces == (FACE,)


@pytest.mark.parametrize("ink", [1, 255])
def test_writing_that_no_frame_shows_whole_is_seen_over_all_of_them(ink: int) -> None:
    """Something moves before it: each frame shows another half."""

    class Whole:
        def find(self, pixels: Pixels) -> tuple[Mark, ...]:
            corners = ((4, 4), (30, 4), (30, 9), (4, 9))
            is_whole = (pixels[5, [5, 25], 0] == ink).all()
            return (Mark(corners, 0.9, "code", "scripted"),) if is_whole else ()

    frames = np.full((2, 64, 64, 3), 90, np.uint8)
    frames[0, 5, 5], frames[1, 5, 25] = ink, ink

    result = deidentify_frames(
        frames, PROFILES["clinical"], Detectors(Scripted([[]]), None, Whole())
    )

    assert len(result.boxes.codes) == 1
    assert not result.frames[:, 4:10, 4:31].any()


def test_what_is_held_from_elsewhere_is_covered_where_nothing_is_found() -> None:
    """As in the frame of a video whose neighbours show a face and words."""
    words = Mark(((2, 50), (20, 50), (20, 58), (2, 58)), 0.9, "text", "held")
    code = Mark(((30, 2), (40, 2), (40, 12), (30, 12)), 0.9, "code", "held")
    held = Boxes((OTHER,), (words,), (code,))

    one = deidentify_frames(
        PHOTOGRAPH.pixels[None], PROFILE, Detectors(Scripted([[FACE], NOBODY])), held
    )

    assert (one.verdict, one.boxes) == ("released", Boxes((FACE, OTHER), (words,), (code,)))
    for hidden in (
        np.s_[10:30, 10:30],
        np.s_[40:50, 40:50],
        np.s_[50:59, 2:21],
        np.s_[2:13, 30:41],
    ):
        assert not one.frames[0][hidden].any()


def test_what_is_held_and_lies_under_a_cover_is_told_once() -> None:
    again = replace(FACE, box=(11, 11, 18, 18), detector="held")

    one = deidentify_frames(
        PHOTOGRAPH.pixels[None],
        PROFILE,
        Detectors(Scripted([[FACE], NOBODY])),
        Boxes(faces=(again,)),
    )

    assert one.boxes.faces == (FACE,)


def test_a_profile_decides_what_its_detector_takes_for_a_face() -> None:
    strict = detector_for(Profile("strict", detection_threshold=0.02))
    pixels = decode(samples.picture("astronaut.png")).pixels

    assert len(strict.detect(pixels)) > len(detector_for(PROFILE).detect(pixels))
