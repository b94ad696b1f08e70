"""The contract every encoder keeps, held against the real ones."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from workers.encode.embedded import EmbeddedEncoder
from workers.encode.encoder import Encoder, Pixels, encode_all
from workers.encode.openclip import OpenClipEncoder

ARCHITECTURE = "ViT-S-32-alt"
TEXTS = ["a dog", "two people walk along a beach at sunset", "", "snow ☃"]


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small open_clip model with random weights."""
    folder = tmp_path_factory.mktemp("openclip")
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE, load_weights=False)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": ARCHITECTURE, "licence": "none: random weights"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=["embedded", "open_clip"])
def encoder(request: pytest.FixtureRequest, open_clip_folder: Path) -> Iterator[Encoder]:
    if request.param == "embedded":
        yield EmbeddedEncoder()
    else:
        yield OpenClipEncoder("random", open_clip_folder)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    """Noise of many shapes, strips one pixel high or wide among them."""
    random = np.random.default_rng(0)
    shapes = [(300, 400), (1, 50), (50, 1), (1, 1), (224, 224), (2, 3000)]
    return [random.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]


def assert_unit_rows(rows: np.ndarray, encoder: Encoder, count: int) -> None:
    assert rows.shape == (count, encoder.dimensions)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_every_row_has_unit_length_and_the_stated_dimensions(
    encoder: Encoder, images: list[Pixels]
) -> None:
    assert_unit_rows(encode_all(encoder, images), encoder, len(images))
    assert_unit_rows(encoder.encode_texts(TEXTS), encoder, len(TEXTS))


def test_nothing_in_gives_no_rows_out(encoder: Encoder) -> None:
    assert encode_all(encoder, []).shape == (0, encoder.dimensions)


def test_the_same_input_gives_the_same_vector(encoder: Encoder, images: list[Pixels]) -> None:
    assert np.array_equal(encode_all(encoder, images), encode_all(encoder, images))
    assert np.array_equal(encoder.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


def test_a_vector_depends_neither_on_the_rest_of_the_batch_nor_on_its_order(
    encoder: Encoder, images: list[Pixels]
) -> None:
    together, texts = encode_all(encoder, images), encoder.encode_texts(TEXTS)

    assert np.allclose(encode_all(encoder, images, batch_size=1), together, atol=1e-4)
    assert np.allclose(encode_all(encoder, images[::-1])[::-1], together, atol=1e-4)
    assert np.allclose([encoder.encode_texts([text])[0] for text in TEXTS], texts, atol=1e-4)
    assert np.allclose(encoder.encode_texts(TEXTS[::-1])[::-1], texts, atol=1e-4)


def test_different_inputs_give_different_vectors(encoder: Encoder, images: list[Pixels]) -> None:
    rows = np.concatenate([encode_all(encoder, images), encoder.encode_texts(TEXTS)])
    assert len(np.unique(rows.round(4), axis=0)) == len(rows)


def test_an_encoder_states_a_digest_and_a_licence(encoder: Encoder) -> None:
    assert len(bytes.fromhex(encoder.digest)) == 32
    assert encoder.licence
