"""An encoder whose images are computed in cheaper arithmetic: another model, of its own name.

The folder holds precision.json and, for int8, images.onnx. Vectors of different arithmetic differ a
little, so they are never mixed: the version has a digest of its own, is filled in the shadow and
switched to like any other. Words are computed as before, since one query costs little.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from retrieval.errors import ModelRefused
from workers.encode import onnx_graph
from workers.encode.encoder import Encoder, Pixels, Vectors
from workers.encode.image_network import unit_rows
from workers.encode.weights_file import combined_digest, read, read_verified

CONFIG_FILE = "precision.json"
IMAGES_FILE = "images.onnx"
MOST_PICTURES = 4096  # in a batch of the exported network


class Precision(StrEnum):
    """bf16: products of 8-bit mantissas, for devices that have them. int8: for CPUs without."""

    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class Config:
    """base_source: the base's folder; empty for what ships with Cloister.

    images_sha256: of IMAGES_FILE; empty where the base's own weights are used.
    """

    base: str
    base_source: str
    base_digest: str
    precision: str
    images_sha256: str


class NetworkEncoder(Encoder, Protocol):
    """One whose images go through a network of torch."""

    @property
    def image_network(self) -> nn.Module:
        """From (N, 3, side, side) uint8 to (N, dimensions), of any length."""


class CheaperEncoder:
    """The base, but for the arithmetic of its images."""

    def __init__(self, name: str, folder: Path, base: Encoder, config: Config) -> None:
        """Raises ModelRefused if a file is missing or altered or the base has no network."""
        self.name = name
        self.dimensions = base.dimensions
        self.side = base.side
        self.licence = base.licence
        self.digest = digest_of(config)
        self._base = base
        self._device = torch.device("cpu")
        self._network: Callable[[torch.Tensor], torch.Tensor]
        if config.precision == Precision.INT8:
            self._network = _session(read_verified(folder / IMAGES_FILE, config.images_sha256))
        else:
            network = network_of(base)
            self._device = next(network.parameters()).device
            self._network = _in_bf16(network, self._device)

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """See Encoder."""
        return self._base.preprocess(images)

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """See Encoder."""
        return unit_rows(self._network, batch, self._device)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """See Encoder."""
        return self._base.encode_texts(texts)


def fastest_here(device: torch.device) -> Precision:
    """What this machine computes fastest: bf16 where it has instructions for it."""
    if device.type == "cuda":
        return Precision.BF16
    has = torch.cpu.get_capabilities()
    return Precision.BF16 if has.get("amx_bf16") or has.get("avx512_bf16") else Precision.INT8


def digest_of(config: Config) -> str:
    """Of the base, the arithmetic and the exported network."""
    return combined_digest([config.base_digest, config.precision, config.images_sha256])


def write(folder: Path, base: Encoder, *, base_source: str, precision: Precision) -> Config:
    """Make `folder`. Exporting for int8 takes a minute. Raises ModelRefused."""
    network = network_of(base)
    content = _as_int8(network, base.side) if precision is Precision.INT8 else b""
    sha256 = hashlib.sha256(content).hexdigest() if content else ""
    config = Config(base.name, base_source, base.digest, precision.value, sha256)
    folder.mkdir(parents=True, mode=0o700)
    if content:
        (folder / IMAGES_FILE).write_bytes(content)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=1), encoding="utf-8")
    return config


def read_config(folder: Path) -> Config:
    """Raises ModelRefused if the folder's configuration is missing or another one's."""
    try:
        config = Config(**json.loads(read(folder / CONFIG_FILE)))
        Precision(config.precision)
    except (ValueError, TypeError) as exc:
        raise ModelRefused(f"{CONFIG_FILE} is not the configuration of a cheaper encoder") from exc
    return config


def network_of(encoder: Encoder) -> nn.Module:
    """Raises ModelRefused where its images go through none of its own."""
    network = getattr(encoder, "image_network", None)
    if not isinstance(network, nn.Module):
        raise ModelRefused(f"{encoder.name} has no network of images to compute otherwise")
    return network


def _in_bf16(network: nn.Module, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """A copy whose matrices are bfloat16 already: autocast would convert them in every batch."""
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16()

    def forward(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return network(batch)  # type: ignore[no-any-return]

    return forward


def _session(content: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    network = onnx_graph.session(content)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        # One by one: the range of a batch's numbers scales them all, and no picture's vector may
        # depend on its neighbours, which may be of another collection.
        return torch.cat([onnx_graph.run(network, batch=one[None]) for one in batch])

    return forward


def _as_int8(network: nn.Module, side: int) -> bytes:
    """The network for onnxruntime, its matrix products in int8.

    Activations are scaled picture by picture, so nothing has to be calibrated on anybody's.
    Convolutions stay in float32: EfficientNet-Lite0 took four times as long with them in int8. A
    network of convolutions is refused.
    Weights keep 7 bits: without VNNI the sums of 8-bit products would overflow 16 bits.
    """
    kinds = [parameter.dim() for parameter in network.parameters()]
    if kinds.count(4) > kinds.count(2):
        raise ModelRefused("int8 pays for matrix products, and this network is of convolutions")
    # Here only, as they take seconds to import.
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="cloister-export-") as folder:
        plain, quantised = Path(folder, "plain.onnx"), Path(folder, "quantised.onnx")
        torch.onnx.export(
            copy.deepcopy(network).cpu(),
            (torch.zeros(2, 3, side, side, dtype=torch.uint8),),
            plain,
            input_names=["batch"],
            dynamic_shapes=({0: torch.export.Dim("pictures", min=1, max=MOST_PICTURES)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        quantize_dynamic(
            plain,
            quantised,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
        return quantised.read_bytes()
