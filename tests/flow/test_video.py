"""A video through the whole of the de-identification, with the real parts."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command
from PIL import Image, ImageDraw

from tests.decode import samples, videos
from workers.decode import footage
from workers.decode.footage import Stretch
from workers.deidentify.faces import Face, Pixels, union
from workers.deidentify.film import deidentify_film
from workers.deidentify.verdict import PROFILES, Detectors, detectors_for

FRAMES = 11
STEP = 19
"""Pixels a frame: between two looks the face goes further than the covers of both reach."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's report and output for a video of a face that moves fast."""
    folder = tmp_path_factory.mktemp("film")
    content = videos.video(videos.walk(FRAMES, step=STEP), sound=True)
    (folder / "walk.mp4").write_bytes(content)
    told = StringIO()
    call_command("deidentify", folder / "walk.mp4", output=folder / "out", json=True, stdout=told)
    (folder / "report.json").write_text(told.getvalue())
    return folder


@pytest.fixture(scope="module")
def written(out: Path) -> Stretch:
    (film,) = (out / "out").glob("*.webm")
    (stretch,) = footage.all_frames(film.read_bytes())
    return stretch


def test_a_video_has_one_entry_and_a_film_beside_it(out: Path) -> None:
    (entry,) = json.loads((out / "report.json").read_text())["files"]

    assert (entry["file"], entry["verdict"], entry["reason"]) == ("walk.mp4", "released", None)
    assert len(entry["faces"]) >= 3
    assert entry["text"] == []
    assert (out / "out" / entry["output"]).is_file()


def test_no_face_shows_in_any_frame(written: Stretch) -> None:
    (first,) = union().detect(videos.walk(1)[0])
    x, y, w, h = first.box

    assert len(written.frames) == FRAMES
    for number, frame in enumerate(written.frames):
        left = x + number * STEP
        assert frame[y : y + h, left : left + w].max() < 64, number
    assert union().detect(written.frames[2]) == []


def test_times_are_kept_and_nothing_else(out: Path, written: Stretch) -> None:
    (film,) = (out / "out").glob("*.webm")
    content = film.read_bytes()

    assert written.times_s == pytest.approx([n / videos.RATE for n in range(FRAMES)], abs=0.002)
    for told in (videos.SECRET.encode(), b"Jane", b"A_AAC", b"A_OPUS"):
        assert told not in content


def test_writing_that_flashes_up_between_two_looks_is_covered() -> None:
    """In the third frame alone; the first and the last are looked at anyway."""
    frames = videos.plain(4, (70, 110, 90))
    picture = Image.fromarray(frames[2])
    ImageDraw.Draw(picture).text((20, 90), videos.SECRET, (255, 255, 255), font_size=26)
    frames[2] = np.asarray(picture)
    looking = detectors_for(PROFILES["clinical"])

    film = deidentify_film(
        videos.video(frames), PROFILES["clinical"], Detectors(looking.faces, looking.text)
    )

    assert (film.verdict, len(film.seen.text)) == ("released", 1)
    (stretch,) = footage.all_frames(film.content)
    (mark,) = film.seen.text
    x, y, w, h = mark.box(*frames[2].shape[:2])
    assert stretch.frames[2][y + 4 : y + h - 4, x + 4 : x + w - 4].max() < 64


class Lamp:
    """A detector that finds a bright square."""

    name = "lamp"

    def detect(self, pixels: Pixels) -> list[Face]:
        return [Face((100, 80, 60, 60), 0.9, "lamp")] if pixels[110, 130].min() > 200 else []


@pytest.mark.parametrize("shown", [[1], [3, 4], [6, 7, 8, 9]], ids=str)
def test_a_face_that_comes_and_goes_between_two_looks_is_covered(shown: list[int]) -> None:
    """Looked at anyway are the frames 0, 5 and 10: in none of them does it show."""
    frames = videos.plain(11, (70, 110, 90))
    for number in shown:
        frames[number][80:140, 100:160] = 255

    film = deidentify_film(videos.video(frames), PROFILES["photographs"], Detectors(faces=Lamp()))

    assert film.verdict == "released"
    (stretch,) = footage.all_frames(film.content)
    assert stretch.frames[:, 80:140, 100:160].max(axis=(1, 2, 3))[shown].max() < 64


def test_a_still_video_is_looked_at_in_every_fifth_frame_and_the_last() -> None:
    seen: list[Pixels] = []

    class Counting(Lamp):
        def detect(self, pixels: Pixels) -> list[Face]:
            seen.append(pixels)
            return []

    deidentify_film(
        videos.video([samples.noise(240, 320)] * 12),
        PROFILES["photographs"],
        Detectors(faces=Counting()),
    )

    assert len(seen) == 4 + len([2, 7, 11])  # and again after covering, midway and last


@pytest.mark.parametrize("count", [2, 5, 10])
def test_a_face_in_the_last_frame_alone_is_covered(count: int) -> None:
    """After the last fifth frame no other look is due, neither before nor after covering."""
    frames = videos.plain(count, (70, 110, 90))
    frames[-1][80:140, 100:160] = 255

    film = deidentify_film(videos.video(frames), PROFILES["photographs"], Detectors(faces=Lamp()))

    assert film.verdict == "released"
    (stretch,) = footage.all_frames(film.content)
    assert len(stretch.frames) == count
    assert stretch.frames[-1][80:140, 100:160].max() < 64
