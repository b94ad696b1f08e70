"""Cheaper arithmetic is another model: near the first, and never mistaken for it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import skimage
import timm
import torch
from PIL import Image

from retrieval.errors import ModelRefused
from workers.encode import calibration, registry
from workers.encode.encoder import Encoder, Pixels, encode_all
from workers.encode.precision import (
    CONFIG_FILE,
    IMAGES_FILE,
    Config,
    Precision,
    _not_of_convolutions,
    digest_of,
    fastest_here,
    require_near,
    write,
)

NAMES = ("astronaut.png", "rocket.jpg")


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    folder = Path(skimage.__file__).parent / "data"
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in NAMES]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny transformer with random weights."""
    return random_model(tmp_path_factory.mktemp("backbone"), "test_vit")


def random_model(folder: Path, architecture: str, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = timm.create_model(architecture, pretrained=False)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": architecture, "license": "none: random weights"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def made(base: Encoder, source: str, folder: Path, precision: Precision) -> tuple[Encoder, Config]:
    """The cheaper version as a worker loads it."""
    config = write(folder, base, base_source=source, precision=precision)
    digest = digest_of(config)
    return registry.load(precision.value, source=str(folder), digest=digest), config


@pytest.fixture(scope="module")
def int8(
    backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Encoder, Encoder, Config, Path]:
    base = registry.load("tiny", source=str(backbone))
    folder = tmp_path_factory.mktemp("made") / "int8"
    return (base, *made(base, str(backbone), folder, Precision.INT8), folder)


def cosines(one: Encoder, other: Encoder, images: list[Pixels]) -> np.ndarray:
    return np.asarray((encode_all(one, images) * encode_all(other, images)).sum(1))


def test_bf16_is_within_a_thousandth_of_float32(tmp_path: Path, images: list[Pixels]) -> None:
    base = registry.load(registry.EMBEDDED)

    cheaper, _ = made(base, "", tmp_path / "bf16", Precision.BF16)

    before = encode_all(base, images[:1])
    # One picture: where the machine has no instructions for it, each takes seconds.
    assert cosines(base, cheaper, images[:1]).min() >= 0.999
    assert cheaper.digest != base.digest
    # The first is in use beside it, and computes as before.
    assert np.array_equal(encode_all(base, images[:1]), before)
    network = getattr(base, "image_network", None)
    assert isinstance(network, torch.nn.Module)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_int8_is_near_float32_whatever_the_batch(
    int8: tuple[Encoder, Encoder, Config, Path], images: list[Pixels]
) -> None:
    base, cheaper, _, _ = int8

    assert cosines(base, cheaper, images).min() > 0.99
    rows = encode_all(cheaper, images)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.array_equal(encode_all(cheaper, images), rows)
    assert np.allclose(encode_all(cheaper, images[::-1])[::-1], rows, atol=1e-4)
    assert np.allclose(encode_all(cheaper, images[:1]), rows[:1], atol=1e-4)
    assert encode_all(cheaper, []).shape == (0, cheaper.dimensions)
    assert cheaper.digest != base.digest
    assert (cheaper.dimensions, cheaper.side) == (base.dimensions, base.side)


def test_an_altered_network_is_refused(
    int8: tuple[Encoder, Encoder, Config, Path], tmp_path: Path
) -> None:
    _, _, _, folder = int8
    (tmp_path / CONFIG_FILE).write_bytes((folder / CONFIG_FILE).read_bytes())
    (tmp_path / IMAGES_FILE).write_bytes((folder / IMAGES_FILE).read_bytes()[:-1] + b"x")

    with pytest.raises(ModelRefused, match="digest"):
        registry.load("altered", source=str(tmp_path))


def test_int8_that_is_another_network_than_it_should_be_is_refused(
    int8: tuple[Encoder, Encoder, Config, Path], tmp_path: Path
) -> None:
    _, _, _, folder = int8
    other = registry.load("other", source=str(random_model(tmp_path, "test_vit", seed=1)))

    with pytest.raises(ModelRefused, match="too far"):
        require_near((folder / IMAGES_FILE).read_bytes(), other)


def test_a_base_that_was_altered_since_is_refused(
    int8: tuple[Encoder, Encoder, Config, Path], backbone: Path, tmp_path: Path
) -> None:
    _, _, _, folder = int8
    config = json.loads((folder / CONFIG_FILE).read_text()) | {"base_digest": "0" * 64}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))

    with pytest.raises(ModelRefused, match="not those it was recorded with"):
        registry.load("other base", source=str(tmp_path))


def test_what_learned_from_images_has_no_cheaper_version(tmp_path: Path) -> None:
    head, cheaper = tmp_path / "head", tmp_path / "cheaper"
    for folder in (head, cheaper):
        folder.mkdir()
    (head / "private_head.json").write_text("{}")
    config = Config("head", str(head), "0" * 64, Precision.BF16, "")
    (cheaper / CONFIG_FILE).write_text(json.dumps(config.__dict__))

    with pytest.raises(ModelRefused, match="no plain model"):
        registry.load("cheaper", source=str(cheaper))


def test_an_encoder_without_a_network_has_no_cheaper_version(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no network"):
        write(
            tmp_path / "made",
            registry.load(registry.CLASSIC),
            base_source="",
            precision=Precision.BF16,
        )


@pytest.mark.parametrize(
    ("has", "fastest"),
    [
        ({"amx_bf16": True}, Precision.BF16),
        ({"avx512_bf16": True}, Precision.BF16),
        ({"avx2": True, "amx_bf16": False}, Precision.INT8),
    ],
)
def test_bf16_is_chosen_where_the_machine_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], fastest: Precision
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)

    assert fastest_here(torch.device("cpu")) is fastest
    assert fastest_here(torch.device("cuda")) is Precision.BF16


def test_convolutions_in_int8_are_near_float32_with_ranges_from_no_collection_s_pictures(
    tmp_path: Path, images: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "PARTS_EACH", 1)
    folder = random_model(tmp_path, "test_resnet")
    base = registry.load("convolutions", source=str(folder))

    cheaper, _ = made(base, str(folder), tmp_path / "int8", Precision.INT8)

    assert cosines(base, cheaper, images).min() > 0.99
    network = onnx.load(tmp_path / "int8" / IMAGES_FILE).graph
    source = {name: node.op_type for node in network.node for name in node.output}
    read = [source[node.input[0]] for node in network.node if node.op_type == "Conv"]
    assert set(read) == {"DequantizeLinear"}


def test_what_comes_after_the_last_convolution_stays_float32(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node(operator, inputs, [name], name)
        for name, operator, inputs in (
            ("centred", "Add", ["batch", "batch"]),
            ("seen", "Conv", ["centred", "weight"]),
            ("active", "Relu", ["seen"]),
            ("residual", "Add", ["active", "centred"]),
            ("pooled", "GlobalAveragePool", ["residual"]),
            ("vector", "Add", ["pooled", "pooled"]),
        )
    ]
    graph = onnx.helper.make_graph(nodes, "network", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "network.onnx")

    assert _not_of_convolutions(tmp_path / "network.onnx") == ["centred", "pooled", "vector"]
