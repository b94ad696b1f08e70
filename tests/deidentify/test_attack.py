"""Whoever has the originals cannot tell whose face lies under a cover.

The attacker is the embedded encoder: it compares the crop of a covered face with crops of
everybody's original, and names the nearest. The people are scikit-image's small faces from Labeled
Faces in the Wild, enlarged.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

from tests.decode.samples import PICTURES
from workers.deidentify.faces import Face, Pixels
from workers.deidentify.obscure import Style, cover
from workers.encode.registry import EMBEDDED, load

# The share of shown faces, in the order of `people`, that are named rightly.
Attacker = Callable[[list[Pixels]], float]

PEOPLE = 12
CHANCE = 1 / PEOPLE
FACE = Face((12, 12, 76, 76), 0.9, "test")


@pytest.fixture(scope="module")
def people() -> list[Pixels]:
    """(100, 100, 3) pictures of as many people."""
    crops = np.load(PICTURES / "lfw_subset.npy")[:PEOPLE]
    return [
        np.asarray(
            Image.fromarray((crop * 255).astype(np.uint8)).convert("RGB").resize((100, 100), 3)
        )
        for crop in crops
    ]


def another_day(pixels: Pixels) -> Pixels:
    """The same face in other light, a little turned."""
    picture = Image.fromarray(pixels).rotate(4, Image.Resampling.BILINEAR, fillcolor=(90, 90, 90))
    return np.asarray(ImageEnhance.Brightness(picture).enhance(1.15))


@pytest.fixture(scope="module")
def attacker(people: list[Pixels]) -> Attacker:
    encoder = load(EMBEDDED)

    def vectors(faces: list[Pixels]) -> npt.NDArray[np.float32]:
        crops = [face[12:88, 12:88] for face in faces]
        rows = encoder.encode_images(encoder.preprocess(crops))
        # What all faces have in common says nothing about whose they are.
        rows = rows - rows.mean(axis=0)
        return np.asarray(rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9))

    known = vectors(people)
    return lambda shown: float(
        ((vectors(shown) @ known.T).argmax(axis=1) == np.arange(len(people))).mean()
    )


def test_the_attacker_knows_an_uncovered_face_on_another_day(
    attacker: Attacker, people: list[Pixels]
) -> None:
    """Without this, the tests below would pass with an attacker who knows nobody."""
    assert attacker([another_day(face) for face in people]) >= 8 * CHANCE


@pytest.mark.parametrize("style", ["solid", "mosaic"])
def test_the_attacker_does_not_know_a_covered_face(
    attacker: Attacker, people: list[Pixels], style: Style
) -> None:
    """Near chance: five of twelve by luck would happen once in 500 runs."""
    assert (
        attacker([cover(another_day(face), [FACE], style=style) for face in people]) <= 4 * CHANCE
    )
