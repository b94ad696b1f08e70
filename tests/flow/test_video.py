"""A video through the whole of the de-identification, with the real parts."""

import pytest

from tests.decode import videos
from workers.decode import footage
from workers.deidentify.film import Film, deidentify_film
from workers.deidentify.verdict import PROFILES, detectors_for


@pytest.fixture(scope="module")
def film() -> Film:
    content = videos.video(videos.walk(13, step=12), sound=True)
    return deidentify_film(content, PROFILES["photographs"], detectors_for(PROFILES["photographs"]))


def test_no_face_shows_in_any_frame(film: Film) -> None:
    detector = detectors_for(PROFILES["photographs"]).faces
    (stretch,) = footage.all_frames(film.content)

    assert film.verdict == "released"
    assert film.faces
    assert len(stretch.frames) == 13
    assert [detector.detect(frame) for frame in stretch.frames] == [[]] * 13


def test_times_are_kept_and_nothing_else(film: Film) -> None:
    (stretch,) = footage.all_frames(film.content)

    assert stretch.times_s == pytest.approx([n / videos.RATE for n in range(13)], abs=0.002)
    for told in (videos.SECRET.encode(), b"Jane", b"A_AAC", b"A_OPUS"):
        assert told not in film.content
