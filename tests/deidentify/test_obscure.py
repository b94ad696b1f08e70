"""Under a cover nothing is left of what was there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decode.samples import noise
from workers.deidentify.faces import Face
from workers.deidentify.obscure import (
    MAX_CELLS,
    Pixels,
    Shape,
    Style,
    cover,
    grown,
    share_under_covers,
)

STYLES: tuple[Style, ...] = ("solid", "mosaic")


def face(x: int, y: int, w: int, h: int) -> Face:
    return Face((x, y, w, h), 0.9, "test")


def colours(pixels: Pixels) -> int:
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


def test_a_solid_cover_leaves_one_colour() -> None:
    covered = cover(noise(100, 100), [face(30, 30, 40, 40)], margin=0.25)

    assert colours(covered[20:80, 20:80]) == 1


@pytest.mark.parametrize("side", [8, 40, 160])
def test_a_mosaic_leaves_36_colours_however_large_the_face_is(side: int) -> None:
    area = slice(20, 20 + side)
    covered = cover(noise(200, 200), [face(20, 20, side, side)], style="mosaic", margin=0.1)

    assert colours(covered[area, area]) <= MAX_CELLS**2


def test_overlapping_mosaics_have_no_more_cells_than_one() -> None:
    both = [face(20, 20, 60, 60), face(50, 50, 60, 60), face(85, 60, 60, 60)]

    covered = cover(noise(200, 200), both, style="mosaic", margin=0.1)

    assert colours(covered[14:126, 14:151]) <= MAX_CELLS**2


def test_two_mosaics_of_one_face_differ() -> None:
    pixels, one = noise(100, 100), [face(30, 30, 40, 40)]

    assert not np.array_equal(
        cover(pixels, one, style="mosaic"), cover(pixels, one, style="mosaic")
    )


@pytest.mark.parametrize("style", STYLES)
def test_the_cover_reaches_beyond_the_box_by_its_margin(style: Style) -> None:
    pixels = noise(200, 200)
    covered = cover(pixels, [face(80, 80, 40, 40)], style=style, margin=0.25)
    changed = (covered != pixels).any(axis=2)

    assert changed[70:130, 70:130].mean() > 0.99
    assert not changed[:70].any()
    assert not changed[130:].any()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("box", [(60, 60, 40, 40), (60, 20, 30, 90), (0, 0, 35, 20)], ids=str)
def test_an_ellipse_hides_the_whole_box_of_the_face(
    style: Style, box: tuple[int, int, int, int]
) -> None:
    pixels = noise(160, 160)
    before = pixels.copy()
    x, y, w, h = box

    covered = cover(pixels, [face(*box)], style=style, shape="ellipse", margin=0.1)

    assert colours(covered[y : y + h, x : x + w]) <= (1 if style == "solid" else MAX_CELLS**2)
    assert not (covered == before)[y : y + h, x : x + w].all(axis=2).any()


def test_an_ellipse_reaches_as_far_as_a_box_and_leaves_its_corners() -> None:
    pixels = np.full((200, 200, 3), 90, np.uint8)

    hidden = (cover(pixels, [face(80, 80, 40, 40)], shape="ellipse", margin=0.3) == 0).all(axis=2)

    assert hidden[100, 68] and hidden[100, 131] and hidden[68, 100] and hidden[131, 100]  # noqa: PT018
    assert not hidden[:, :68].any()
    assert not hidden[69, 69]


@pytest.mark.parametrize(("shape", "share"), [("box", 1.0), ("ellipse", 0.0)])
def test_what_lies_under_a_cover_is_told_by_its_shape(shape: Shape, share: float) -> None:
    covers, corner = [face(80, 80, 40, 40)], face(68, 68, 3, 3)

    assert (
        share_under_covers(corner, covers, shape=shape, margin=0.3, height=200, width=200) == share
    )


def test_what_is_outside_stays_and_the_original_is_not_touched() -> None:
    pixels = noise(100, 100)
    before = pixels.copy()

    covered = cover(pixels, [face(0, 0, 20, 20)])

    assert np.array_equal(pixels, before)
    assert np.array_equal(covered[40:, 40:], before[40:, 40:])


@pytest.mark.parametrize(
    "options",
    [
        {"style": "blur"},
        {"shape": "line"},
        {"style": "mosaic", "cells": 7},
        {"style": "mosaic", "cells": 0},
        {"margin": 0.05},
        {"margin": -1.0},
        {"margin": float("nan")},
    ],
    ids=str,
)
def test_nothing_laxer_than_the_floor_is_done(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        cover(noise(50, 50), [face(10, 10, 20, 20)], **options)  # type: ignore[arg-type]


boxes = st.tuples(st.integers(0, 95), st.integers(0, 75), st.integers(1, 100), st.integers(1, 100))


@settings(max_examples=60, deadline=None)
@given(found=st.lists(boxes, max_size=6), cells=st.integers(1, 6), margin=st.floats(0.1, 1))
def test_no_pixel_under_a_mosaic_depends_on_one_pixel_alone(
    found: list[tuple[int, int, int, int]], cells: int, margin: float
) -> None:
    pixels = noise(80, 100)
    covered = cover(
        pixels, [face(*box) for box in found], style="mosaic", cells=cells, margin=margin
    )

    for top, bottom, left, right in (grown(box, margin, 80, 100) for box in found):
        assert colours(covered[top:bottom, left:right]) <= cells**2
