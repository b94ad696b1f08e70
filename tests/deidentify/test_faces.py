"""Faces are found large and small, upright and lying; the weights are those that were tested."""

import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retrieval.errors import ModelRefused
from tests.decode.samples import PICTURES
from workers.deidentify.faces import Pixels, Union, boxes, centerface, mtcnn, union
from workers.deidentify.faces.centerface import CenterFace
from workers.deidentify.faces.mtcnn import Mtcnn
from workers.deidentify.onnx_shape import free_shapes

# The package's name `union` is the function.
union_of_views = importlib.import_module("workers.deidentify.faces.union")

# The astronaut's face: x, y, width, height in the 512 by 512 picture.
FACE = (180, 65, 90, 115)


@pytest.fixture(scope="module")
def detector() -> Union:
    return union()


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    with Image.open(PICTURES / "astronaut.png") as image:
        return image.convert("RGB")


def iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0.0, across) * max(0.0, down)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def best(detector: Union, image: Image.Image, box: tuple[float, ...]) -> float:
    """How well the best face found in `image` fits `box`."""
    return max((iou(face.box, box) for face in detector.detect(np.asarray(image))), default=0.0)


@pytest.mark.parametrize("side", [100, 1100])
def test_a_face_is_found_at_any_size_of_the_picture(
    detector: Union, astronaut: Image.Image, side: int
) -> None:
    scaled = astronaut.resize((side, side))

    assert best(detector, scaled, tuple(edge * side / 512 for edge in FACE)) > 0.5


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_is_found_in_a_turned_picture(
    detector: Union, astronaut: Image.Image, turns: int
) -> None:
    x, y, w, h = FACE
    turned = {
        1: (y, 512 - x - w, h, w),
        2: (512 - x - w, 512 - y - h, w, h),
        3: (512 - y - h, x, h, w),
    }

    assert best(detector, astronaut.rotate(90 * turns), turned[turns]) > 0.5


def test_a_face_that_fills_the_picture_is_found(detector: Union, astronaut: Image.Image) -> None:
    close = astronaut.crop((170, 50, 280, 190)).resize((1100, 1400))

    assert best(detector, close, (100, 150, 900, 1150)) > 0.4


def test_a_small_face_in_a_large_picture_is_found(detector: Union, astronaut: Image.Image) -> None:
    """Of 20 by 26 pixels, on the border of two tiles."""
    wide = Image.new("RGB", (2400, 700), (90, 120, 90))
    wide.paste(astronaut.resize((114, 114)), (1148, 300))

    assert best(detector, wide, (1148 + 40, 300 + 14, 20, 26)) > 0.35


@given(side=st.integers(1, 20000))
def test_tiles_cover_a_side_and_share_an_edge(side: int) -> None:
    length, starts = union_of_views._tiles(side)

    assert starts[0] == 0
    assert starts[-1] + length == side
    assert length <= 1280
    for one, other in itertools.pairwise(starts):
        assert one < other <= one + length - min(90, length)


def test_a_picture_of_any_size_costs_no_more_than_one_of_the_tiled_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that counts stands in for the real ones, and fewer pixels for 16 million."""
    monkeypatch.setattr(union_of_views, "_TILED_PIXELS", 500_000)
    monkeypatch.setattr(union_of_views, "_TILE", 320)
    seen: list[int] = []

    class Counting:
        name = "counting"

        def look(self, batch: Pixels, threshold: float) -> list[boxes.Boxes]:
            seen.append(batch.shape[0] * batch.shape[1] * batch.shape[2])
            return [boxes.NONE] * len(batch)

    watching = Union([union_of_views.Watch(Counting(), (), closer=True)])
    picture = np.tile(np.arange(85, dtype=np.uint8)[:, None], (800, 20, 3))

    watching.detect(picture)

    assert 500_000 <= sum(seen) < 1_000_000
    assert max(seen) <= union_of_views._TILES_AT_ONCE * 320**2

    whole = sum(seen)
    picture[:, :850] = 0
    watching.detect(picture)
    assert sum(seen) < 1.7 * whole, "blank tiles are not looked at"

    watching.detect(np.zeros_like(picture))
    assert sum(seen) < 1.7 * whole


def test_two_faces_are_two_and_each_is_told_once(detector: Union, astronaut: Image.Image) -> None:
    pair = Image.new("RGB", (1024, 512))
    pair.paste(astronaut, (0, 0))
    pair.paste(astronaut, (512, 0))

    found = [face for face in detector.detect(np.asarray(pair)) if face.score > 0.9]

    assert len(found) == 2
    assert {face.detector for face in found} <= {"centerface", "mtcnn"}


@pytest.mark.parametrize("name", ["brick.png", "grass.png", "text.png"])
def test_a_picture_without_people_has_no_face(detector: Union, name: str) -> None:
    with Image.open(PICTURES / name) as image:
        assert detector.detect(np.asarray(image.convert("RGB"))) == []


def test_boxes_lie_inside_the_picture(detector: Union, astronaut: Image.Image) -> None:
    for face in detector.detect(np.asarray(astronaut.crop((200, 90, 400, 291)))):
        x, y, w, h = face.box
        assert 0 <= x < x + w <= 200
        assert 0 <= y < y + h <= 201


def test_a_long_thin_picture_is_looked_at(detector: Union) -> None:
    thin: Pixels = np.zeros((16, 9000, 3), np.uint8)

    assert detector.detect(thin) == []


@pytest.mark.parametrize("network", [CenterFace, Mtcnn])
def test_either_network_finds_a_face_by_itself(
    network: type[CenterFace] | type[Mtcnn], astronaut: Image.Image
) -> None:
    (rows,) = network().look(np.asarray(astronaut)[None], 0.9)

    left, top, right, bottom, _ = rows[rows[:, boxes.SCORE].argmax()]
    assert iou((left, top, right - left, bottom - top), FACE) > 0.5


def test_views_that_are_looked_at_together_are_told_apart(astronaut: Image.Image) -> None:
    mirrored = np.asarray(astronaut)[:, ::-1]

    one, other = Mtcnn().look(np.stack([np.asarray(astronaut), mirrored]), 0.9)

    assert one[0, boxes.LEFT] < 256 < other[0, boxes.RIGHT]


def test_other_weights_of_centerface_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centerface, "_DIGEST", "0" * 64)

    with pytest.raises(ModelRefused):
        union()


def test_other_weights_of_mtcnn_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mtcnn._DIGESTS, "onet.onnx", "0" * 64)

    with pytest.raises(ModelRefused):
        union()


def test_the_larger_of_two_boxes_is_never_dropped_for_a_small_one_inside_it() -> None:
    small, large = [10, 10, 20, 20, 0.9], [0, 0, 100, 100, 0.3]

    assert len(boxes.merge(np.array([small, large], np.float32))) == 2


def test_a_small_face_before_a_large_one_is_kept() -> None:
    large, small, part = [0, 0, 100, 100, 0.9], [10, 10, 30, 30, 0.3], [20, 20, 90, 80, 0.5]

    kept = boxes.merge(np.array([large, small, part], np.float32))

    assert len(kept) == 2
    assert kept[1, boxes.RIGHT] == 30


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="protocol buffer"):
        free_shapes(b"\x3a\xff\x01 short", {})
