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

import numpy as np
import torch
from torch import nn

from retrieval.errors import ModelRefused
from workers.encode import calibration, onnx_graph
from workers.encode.encoder import Encoder, Pixels, Vectors, encode_batch
from workers.encode.image_network import unit_rows
from workers.encode.weights_file import combined_digest, read, read_verified

CONFIG_FILE = "precision.json"
IMAGES_FILE = "images.onnx"
MOST_PICTURES = 4096  # in a batch of the exported network
AFTER_A_CONVOLUTION = ("Clip", "Relu", "Add")
LEAST_COSINE = 0.98
"""Of int8's vectors to float32's, on average: at .99 the embedded one loses .004 of recall@10."""


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
    content = b""
    if precision is Precision.INT8:
        content = _as_int8(network, base)
        require_near(content, base)
    sha256 = hashlib.sha256(content).hexdigest() if content else ""
    config = Config(base.name, base_source, base.digest, precision.value, sha256)
    folder.mkdir(parents=True, mode=0o700)
    if content:
        (folder / IMAGES_FILE).write_bytes(content)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=1), encoding="utf-8")
    return config


def require_near(content: bytes, base: Encoder) -> None:
    """Raise ModelRefused where int8 changes the vectors of `calibration.photographs` too much."""
    batch = base.preprocess(calibration.photographs())
    found = unit_rows(_session(content), batch, torch.device("cpu"))
    cosine = float((found * encode_batch(base, batch)).sum(1).mean())
    if not cosine >= LEAST_COSINE:
        raise ModelRefused(f"in int8 its vectors keep a cosine of {cosine:.3f}: too far to be used")


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


def _as_int8(network: nn.Module, encoder: Encoder) -> bytes:
    """The network for onnxruntime, its convolutions or else its matrix products in int8.

    Weights keep 7 bits: without VNNI the sums of 8-bit products would overflow 16 bits.
    """
    # Here only, as they take seconds to import.
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    side = encoder.side
    with tempfile.TemporaryDirectory(prefix="cloister-export-") as folder:
        plain, prepared, quantised = (
            Path(folder, f"{name}.onnx") for name in ("plain", "prepared", "quantised")
        )
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
        kinds = [parameter.dim() for parameter in network.parameters()]
        if kinds.count(4) > kinds.count(2):
            quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            _quantise_convolutions(prepared, quantised, encoder)
        else:
            _quantise_products(plain, quantised)
        return quantised.read_bytes()


def _quantise_products(plain: Path, quantised: Path) -> None:
    """For transformers. Activations are scaled picture by picture, so nothing is calibrated."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantize_dynamic(
        plain,
        quantised,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=["MatMul", "Gemm"],
    )


def _quantise_convolutions(plain: Path, quantised: Path, encoder: Encoder) -> None:
    """Activations have the ranges measured on `calibration.parts`: scaling each anew took four to
    nine times as long as float32."""
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(calibration.parts())

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self._left, None)
            return None if picture is None else {"batch": encoder.preprocess([picture]).numpy()}

    quantize_static(
        plain,
        quantised,
        Reader(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=["Conv", *AFTER_A_CONVOLUTION],
        nodes_to_exclude=_not_of_convolutions(plain),
    )


def _not_of_convolutions(network: Path) -> list[str]:
    """The names of what is neither a convolution nor reads one's numbers at once: what comes after
    the last of them is small, and 8 bits are too few for it."""
    import onnx  # noqa: PLC0415

    theirs: set[str] = set()
    others = []
    for node in onnx.load(network).graph.node:
        after = node.op_type in AFTER_A_CONVOLUTION and theirs.intersection(node.input)
        if node.op_type == "Conv" or after:
            theirs.update(node.output)
        else:
            others.append(node.name)
    return others
