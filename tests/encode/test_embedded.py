"""The embedded encoder finds real pictures: scikit-image's, by words and by likeness."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workers.encode.embedded import EmbeddedEncoder
from workers.encode.encoder import Pixels, Vectors, encode_all
from workers.encode.image_network import unit_rows
from workers.encode.towers import TextTower

NAMES = [
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
    "coffee.png", "coins.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg",
    "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg",
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> dict[str, Pixels]:
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    found = {}
    for name in NAMES:
        with Image.open(folder / name) as opened:
            found[name] = np.asarray(opened.convert("RGB"))
    return found


@pytest.fixture(scope="module")
def encoder() -> EmbeddedEncoder:
    return EmbeddedEncoder()


@pytest.fixture(scope="module")
def vectors(encoder: EmbeddedEncoder, pictures: dict[str, Pixels]) -> Vectors:
    return encode_all(encoder, list(pictures.values()))


def ranked(query: np.ndarray, vectors: Vectors) -> list[str]:
    return [NAMES[i] for i in np.argsort(-(vectors @ query))]


@pytest.mark.parametrize(
    ("words", "name", "within"),
    [
        ("a photograph of a cat", "chelsea.png", 1),
        ("a rocket launch", "rocket.jpg", 3),
        ("a cup of coffee", "coffee.png", 3),
        ("a man with a camera", "camera.png", 1),
        ("a motorcycle in a garage", "motorcycle_left.png", 1),
    ],
)
def test_words_find_the_picture_they_describe(
    encoder: EmbeddedEncoder, vectors: Vectors, words: str, name: str, within: int
) -> None:
    (query,) = encoder.encode_texts([words])
    assert name in ranked(query, vectors)[:within]


CHANGES = ["crop", "mirror", "smaller", "darker"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_nearest_to_its_original(
    encoder: EmbeddedEncoder, pictures: dict[str, Pixels], vectors: Vectors, change: str
) -> None:
    """Each picture is changed in one of the ways, and looked for among all."""

    def changed(pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        match change:
            case "crop":
                return pixels[height // 8 : -height // 8, width // 8 : -width // 8].copy()
            case "mirror":
                return pixels[:, ::-1].copy()
            case "smaller":
                return np.asarray(Image.fromarray(pixels).resize((width // 3, height // 3)))
            case _:
                return (pixels * 0.8).astype(np.uint8)

    names = NAMES[CHANGES.index(change) :: len(CHANGES)]
    queries = encode_all(encoder, [changed(pictures[name]) for name in names])
    assert [ranked(query, vectors)[0] for query in queries] == names


def test_words_and_an_example_together_prefer_what_fits_both(
    encoder: EmbeddedEncoder, vectors: Vectors
) -> None:
    (words,) = encoder.encode_texts(["a cat"])
    mixed = words + vectors[NAMES.index("coffee.png")]
    assert set(ranked(mixed, vectors)[:2]) == {"chelsea.png", "coffee.png"}


def test_pictures_by_onnxruntime_are_those_of_torch(
    encoder: EmbeddedEncoder, pictures: dict[str, Pixels], vectors: Vectors
) -> None:
    """Where there is a GPU, those of that: vectors of both lie in one index."""
    batch = encoder.preprocess(list(pictures.values())[:3])
    cpu = torch.device("cpu")

    by_torch = unit_rows(EmbeddedEncoder(cpu).image_network, batch, cpu)

    assert (vectors[:3] * by_torch).sum(1).min() >= 0.9999


def test_words_by_onnxruntime_are_those_of_torch() -> None:
    """Padding and what is cut at the longest length included."""
    texts = ["a dog", "", "two people walk along a beach " * 30]

    by_torch = TextTower().states(texts)
    found = TextTower(by_onnxruntime=True).states(texts)

    assert torch.equal(found[1], by_torch[1])
    assert torch.allclose(found[0][found[1]], by_torch[0][found[1]], atol=1e-4)
    assert torch.allclose(found[2], by_torch[2], atol=1e-5)
