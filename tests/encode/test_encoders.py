"""The contract every encoder keeps, held against the real ones."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import nn

from retrieval.errors import ModelRefused, NoTextTower
from workers.encode import registry
from workers.encode.classic import ClassicEncoder
from workers.encode.embedded import EmbeddedEncoder
from workers.encode.encoder import Encoder, Pixels, encode_all
from workers.encode.image_network import Normalised
from workers.encode.model_folder import digest_of, read_shaping_files
from workers.encode.openclip import OpenClipEncoder
from workers.encode.precision import Precision, write
from workers.encode.precision import digest_of as config_digest
from workers.encode.timm_backbone import TimmEncoder

ARCHITECTURE = "ViT-S-32-alt"
BACKBONE = "test_vit"
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


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny timm backbone with random weights, its classifier with it, as timm publishes one."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    model = timm.create_model(BACKBONE, pretrained=False)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    stated = {"license": "none: random weights", "mean": [0.5] * 3, "std": [0.25] * 3}
    save_config_for_hf(model, str(folder / "config.json"), {"pretrained_cfg": stated})
    return folder


@pytest.fixture(scope="module", params=["embedded", "open_clip", "timm", "classic", "bf16"])
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Encoder]:
    match request.param:
        case "embedded":
            yield EmbeddedEncoder()
        case "open_clip":
            yield OpenClipEncoder("random", request.getfixturevalue("open_clip_folder"))
        case "timm":
            yield TimmEncoder("random", request.getfixturevalue("timm_folder"))
        case "classic":
            yield ClassicEncoder()
        case "bf16":
            # int8 takes long to make: test_precision holds the one it has to the same.
            source = str(request.getfixturevalue("timm_folder"))
            folder = tmp_path_factory.mktemp("cheaper") / "bf16"
            base = registry.load("base", source=source)
            config = write(folder, base, base_source=source, precision=Precision.BF16)
            yield registry.load("bf16", source=str(folder), digest=config_digest(config))


@pytest.fixture(scope="module")
def texts(encoder: Encoder) -> np.ndarray:
    """TEXTS' vectors; no rows of an encoder that reads images only."""
    try:
        return encoder.encode_texts(TEXTS)
    except NoTextTower:
        return np.zeros((0, encoder.dimensions), np.float32)


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
    encoder: Encoder, images: list[Pixels], texts: np.ndarray
) -> None:
    assert_unit_rows(encode_all(encoder, images), encoder, len(images))
    assert_unit_rows(texts, encoder, len(texts))


def test_nothing_in_gives_no_rows_out(encoder: Encoder) -> None:
    assert encode_all(encoder, []).shape == (0, encoder.dimensions)


def test_the_same_input_gives_the_same_vector(
    encoder: Encoder, images: list[Pixels], texts: np.ndarray
) -> None:
    assert np.array_equal(encode_all(encoder, images), encode_all(encoder, images))
    if len(texts):
        assert np.array_equal(encoder.encode_texts(TEXTS), texts)


def test_a_vector_depends_neither_on_the_rest_of_the_batch_nor_on_its_order(
    encoder: Encoder, images: list[Pixels], texts: np.ndarray
) -> None:
    together = encode_all(encoder, images)

    assert np.allclose(encode_all(encoder, images, batch_size=1), together, atol=1e-4)
    assert np.allclose(encode_all(encoder, images[::-1])[::-1], together, atol=1e-4)
    if len(texts):
        assert np.allclose([encoder.encode_texts([text])[0] for text in TEXTS], texts, atol=1e-4)
        assert np.allclose(encoder.encode_texts(TEXTS[::-1])[::-1], texts, atol=1e-4)


def test_different_inputs_give_different_vectors(
    encoder: Encoder, images: list[Pixels], texts: np.ndarray
) -> None:
    rows = np.concatenate([encode_all(encoder, images), texts])
    assert len(np.unique(rows.round(4), axis=0)) == len(rows)


def test_an_encoder_states_a_digest_and_a_licence(encoder: Encoder) -> None:
    assert len(bytes.fromhex(encoder.digest)) == 32
    assert encoder.licence


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("open_clip_folder", "model.safetensors"),
        ("timm_folder", "model.safetensors"),
        ("timm_folder", "config.json"),
    ],
)
def test_a_folder_that_was_altered_after_its_import_is_refused(
    model: str, file: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(request.getfixturevalue(model), folder)
    recorded = digest_of(read_shaping_files(folder))
    content = bytearray((folder / file).read_bytes())
    # The last weight, or a blank in front of what JSON says.
    altered = content[:-1] + bytes([content[-1] ^ 1]) if file.endswith("s") else b" " + content
    (folder / file).write_bytes(altered)

    with pytest.raises(ModelRefused, match="not those it was recorded with"):
        registry.load("altered", source=str(folder), digest=recorded)


def test_an_encoder_of_images_only_says_so_when_asked_for_words(timm_folder: Path) -> None:
    for encoder in (TimmEncoder("random", timm_folder), ClassicEncoder()):
        with pytest.raises(NoTextTower, match="reads images only"):
            encoder.encode_texts(["a dog"])


def test_a_backbone_s_own_mean_and_scale_are_used(timm_folder: Path) -> None:
    encoder = TimmEncoder("random", timm_folder)
    stated = cast(Normalised, encoder.image_network)
    stated.network = nn.Identity()

    white = stated(encoder.preprocess([np.full((20, 30, 3), 255, np.uint8)]))

    assert white.shape == (1, 3, encoder.side, encoder.side)
    assert torch.allclose(white, torch.tensor(2.0))


def test_classic_features_tell_colour_edges_and_texture_apart() -> None:
    yes, no = np.full((128, 128, 3), 200, np.uint8), np.full((128, 128, 3), 40, np.uint8)
    across, down = (
        np.where((np.arange(128) // 8 % 2)[axis] > 0, yes.T, no.T).T
        for axis in (np.s_[:, None], np.s_[None, :])
    )
    red = across * np.array([1, 0, 0], np.uint8)
    noise = np.random.default_rng(0).integers(40, 201, (128, 128, 1), np.uint8).repeat(3, 2)

    rows = encode_all(ClassicEncoder(), [across, np.roll(across, 3, 0), down, red, noise])

    shifted, *others = rows[1:] @ rows[0]
    assert shifted > max(others) + 0.1
