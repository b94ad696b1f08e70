"""Parts of a picture: corners, and what an operator's detector sees in it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from retrieval.models.image import Region
from tests.deidentify.test_added_detectors import listed, onnx
from workers.deidentify.faces.added import AddedDetector, read_detectors
from workers.encode import regions

SIDE = 640
CELLS = SIDE // 32
CORNERS = [Region(x, y, 384, 384) for y in (0, 256) for x in (0, 256)]
PICTURE = np.zeros((SIDE, SIDE, 3), np.uint8)


def seeing(folder: Path, *objects: Sequence[float]) -> tuple[AddedDetector, ...]:
    """A YOLOX that sees these: column and row of its coarsest cell, width and height in pixels,
    score; each of the last class of three."""
    answers = np.zeros((1, 21 * CELLS * CELLS, 8))
    for column, row, width, height, score in objects:
        at = 20 * CELLS * CELLS + int(row) * CELLS + int(column)
        answers[0, at] = [0, 0, np.log(width / 32), np.log(height / 32), score, 0, 0, 1]
    model = onnx({"output": answers}, SIDE)
    file = listed(folder, model, kind="yolox", finds="objects", threshold=0.3)
    return read_detectors(file, finds="objects")


def test_an_object_is_a_part_with_some_room_around_it(tmp_path: Path) -> None:
    detectors = seeing(tmp_path, (10, 5, 100, 60, 0.9))

    assert regions.parts_of(PICTURE, detectors, 224) == [*CORNERS, Region(260, 124, 120, 72)]
    assert regions.parts_of(PICTURE, (), 224) == CORNERS


def test_at_most_four_objects_are_parts_the_surest_first(tmp_path: Path) -> None:
    scores = (0.5, 0.9, 0.2, 0.7, 0.8, 0.6, 0.4)
    detectors = seeing(tmp_path, *((2 + 2 * n, 10, 50, 50, s) for n, s in enumerate(scores)))

    objects = regions.parts_of(PICTURE, detectors, 224)[4:]

    assert [round((part.x + part.w / 2) / 64) for part in objects] == [2, 5, 4, 6]


@pytest.mark.parametrize(
    "other",
    [
        (10.0, 6.0, 100.0, 100.0, 0.5),  # the same, somewhat beside it
        (10.0, 10.0, 600.0, 600.0, 0.8),  # all there is
        (6.0, 6.0, 350.0, 350.0, 0.8),  # a corner
        (3.0, 3.0, 30.0, 30.0, 0.8),  # too small to say anything
    ],
    ids=["twice", "whole", "corner", "small"],
)
def test_an_object_that_adds_nothing_is_no_part(tmp_path: Path, other: Sequence[float]) -> None:
    one = (10, 5, 100, 100, 0.6)

    alone = regions.parts_of(PICTURE, seeing(tmp_path, one), 224)
    assert len(alone) == len(CORNERS) + 1
    assert regions.parts_of(PICTURE, seeing(tmp_path, one, other), 224) == alone


def test_a_picture_of_which_a_corner_shows_no_more_than_the_whole_has_no_parts() -> None:
    assert len(regions.parts_of(PICTURE[:373], (), 224)) == 4
    assert regions.parts_of(PICTURE[:372], (), 224) == []
    assert regions.parts_of(PICTURE, (), 448) == []


def test_a_part_of_a_preview_is_told_in_the_image_s_own_pixels() -> None:
    part = Region(2458, 1229, 1638, 819)

    assert regions.in_image(part, (4096, 2048), (5000, 2500)) == Region(3000, 1500, 2000, 1000)
    assert regions.in_image(part, (4096, 2048), (4096, 2048)) == part


def test_what_chose_the_parts_is_told_by_name_weights_and_threshold(tmp_path: Path) -> None:
    (detector,) = seeing(tmp_path)

    assert regions.how_chosen(()) == "corners lean 0.25"
    assert regions.how_chosen((detector,)) == f"corners lean 0.25 ward:{detector.sha256[:12]}:0.3"


def test_a_part_leans_on_its_whole_and_stays_nearer_to_itself() -> None:
    whole, part = np.eye(2, dtype=np.float32)

    (leaning,) = regions.leaning(part[None], whole)

    assert np.linalg.norm(leaning) == pytest.approx(1)
    assert leaning[0] / leaning[1] == pytest.approx(regions.LEAN / (1 - regions.LEAN))
    assert regions.leaning(np.zeros((0, 2), np.float32), whole).shape == (0, 2)
