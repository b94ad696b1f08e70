"""An encoder that was trained here: a base encoder as it is, and a linear map of its images.

The folder holds private_head.json and head.safetensors. Words are the base's own, so the two
towers still meet in one space; the map was trained under differential privacy (`workers.finetune`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch.nn import functional

from retrieval.errors import ModelRefused
from workers.encode.encoder import Encoder, Pixels, Vectors
from workers.encode.weights_file import combined_digest, read, read_verified

CONFIG_FILE = "private_head.json"
HEAD_FILE = "head.safetensors"
WEIGHT = "image_weight"


@dataclass(frozen=True)
class Config:
    """base_source: the base's folder; empty for what ships with Cloister."""

    base: str
    base_source: str
    base_digest: str
    head_sha256: str


class PrivateHead:
    """Maps the base's image vectors by one matrix; everything else is the base."""

    def __init__(self, name: str, folder: Path, base: Encoder, config: Config) -> None:
        """Raises ModelRefused if the head is missing, altered or does not fit the base."""
        self.name = name
        self.dimensions = base.dimensions
        self.side = base.side
        self.licence = base.licence
        self.digest = digest_of(config)
        self._base = base
        self._weight = _weight(read_verified(folder / HEAD_FILE, config.head_sha256), self)

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """See Encoder."""
        return self._base.preprocess(images)

    @torch.inference_mode()
    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """See Encoder."""
        rows = torch.from_numpy(self._base.encode_images(batch)) @ self._weight
        found: Vectors = functional.normalize(rows, dim=-1).numpy()
        return found

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """See Encoder."""
        return self._base.encode_texts(texts)


def digest_of(config: Config) -> str:
    """The encoder's digest: of its base and its head."""
    return combined_digest([config.base_digest, config.head_sha256])


def write(folder: Path, weight: torch.Tensor, *, base: Encoder, base_source: str) -> Config:
    """Make `folder`, with the map `weight` (dimensions, dimensions) from the base's images."""
    content = safetensors.torch.save({WEIGHT: weight.float().contiguous()})
    config = Config(base.name, base_source, base.digest, hashlib.sha256(content).hexdigest())
    folder.mkdir(parents=True, mode=0o700)
    (folder / HEAD_FILE).write_bytes(content)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=1), encoding="utf-8")
    return config


def read_config(folder: Path) -> Config:
    """Raises ModelRefused if the folder's configuration is missing or another one's."""
    try:
        return Config(**json.loads(read(folder / CONFIG_FILE)))
    except (ValueError, TypeError) as exc:
        raise ModelRefused(f"{CONFIG_FILE} is not the configuration of a private head") from exc


def _weight(content: bytes, encoder: PrivateHead) -> torch.Tensor:
    try:
        weight = safetensors.torch.load(content)[WEIGHT]
    except (safetensors.SafetensorError, KeyError) as exc:
        raise ModelRefused(f"{HEAD_FILE} holds no {WEIGHT}") from exc
    if weight.shape != (encoder.dimensions, encoder.dimensions):
        raise ModelRefused(f"{HEAD_FILE} does not fit the base encoder")
    return weight
