import io

import numpy as np
import pytest
from PIL import Image as Picture

from retrieval.groups import DUPLICATE_BITS
from tests.workers.test_stages import astronaut
from workers.encode.encoder import Pixels
from workers.perceptual_hash import perceptual_hash


@pytest.fixture(scope="module")
def picture() -> Picture.Image:
    return Picture.open(astronaut()).convert("RGB")


def differing_bits(one: Pixels, other: Pixels) -> int:
    hashes = (perceptual_hash(one), perceptual_hash(other))
    first, second = (int(bits, 2) for bits in hashes if bits is not None)
    return (first ^ second).bit_count()


def compressed(picture: Picture.Image) -> Picture.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Picture.open(file)


@pytest.mark.parametrize(
    "copy",
    [
        compressed,
        lambda picture: picture.resize((100, 100)),
        lambda picture: picture.point(lambda value: min(255, int(value * 1.2))),
        lambda picture: picture.crop((8, 8, 504, 504)),
    ],
    ids=["compressed", "scaled", "brighter", "cropped"],
)
def test_a_copy_s_hash_differs_in_few_bits(picture: Picture.Image, copy: object) -> None:
    assert callable(copy)
    assert differing_bits(np.asarray(picture), np.asarray(copy(picture))) <= DUPLICATE_BITS


def test_another_picture_s_hash_differs_in_many(picture: Picture.Image) -> None:
    turned = np.asarray(picture.rotate(180))

    assert differing_bits(np.asarray(picture), turned) > 2 * DUPLICATE_BITS


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_picture_has_no_hash_and_is_no_copy_of_another(level: int) -> None:
    assert perceptual_hash(np.full((50, 80, 3), level, np.uint8)) is None
