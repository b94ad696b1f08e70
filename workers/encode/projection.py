"""The trained part of the embedded encoder: both towers' features into one space."""

from __future__ import annotations

from dataclasses import dataclass

import safetensors.torch
import torch
from torch.nn import functional

from retrieval.errors import ModelRefused


@dataclass(frozen=True)
class Projection:
    """Affine maps of pooled features; float32.

    Each modality's training mean is taken out, so that words and images are not two distant
    clouds (the gap of Liang et al. 2022, arXiv 2203.02053) and a mixed query can be their sum.
    """

    image_weight: torch.Tensor  # (image features, dimensions)
    image_bias: torch.Tensor  # (dimensions,)
    text_weight: torch.Tensor  # (text features, dimensions)
    text_bias: torch.Tensor  # (dimensions,)

    @property
    def dimensions(self) -> int:
        return len(self.image_bias)

    def images(self, features: torch.Tensor) -> torch.Tensor:
        """features: (N, image features). Returns (N, dimensions), unit rows."""
        return functional.normalize(features @ self.image_weight + self.image_bias, dim=-1)

    def texts(self, features: torch.Tensor) -> torch.Tensor:
        """features: (N, text features). Returns (N, dimensions), unit rows."""
        return functional.normalize(features @ self.text_weight + self.text_bias, dim=-1)

    def to_bytes(self) -> bytes:
        """Return a safetensors file of float16 tensors."""
        return safetensors.torch.save(
            {name: tensor.half().contiguous() for name, tensor in vars(self).items()}
        )

    @classmethod
    def from_bytes(cls, content: bytes, device: torch.device) -> Projection:
        """Read what `to_bytes` wrote. Raises ModelRefused if the tensors are not these four."""
        try:
            tensors = safetensors.torch.load(content)
            return cls(**{name: tensor.float().to(device) for name, tensor in tensors.items()})
        except (safetensors.SafetensorError, TypeError) as exc:
            raise ModelRefused("the projection file does not hold a projection") from exc
