"""The encoder every installation has: EfficientNet-Lite and MiniLM in one trained space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from workers.encode import efficientnet_lite, joint_space
from workers.encode.device import best_device, busy_when_out_of_memory
from workers.encode.encoder import Pixels, Vectors
from workers.encode.image_network import unit_rows
from workers.encode.registry import EMBEDDED
from workers.encode.towers import ImageTower, TextTower
from workers.encode.weights_file import combined_digest, read_verified

LICENCE = "Apache-2.0 towers; projection trained on Flickr8k, for research and education"
PROJECTION_FILE = Path(__file__).parent / "weights" / "projection.safetensors"
PROJECTION_SHA256 = "7deb93b028fdb090f9b13590abe4b0272219d2ef7af09fa81945d8d6be497ccf"


class EmbeddedEncoder:
    """Words and photographs; see weights/MODEL_CARD.md for what it is not good for."""

    name = EMBEDDED
    dimensions = joint_space.DIMENSIONS
    side = efficientnet_lite.SIDE
    digest = combined_digest([ImageTower.digest, TextTower.digest, PROJECTION_SHA256])
    licence = LICENCE

    def __init__(self, device: torch.device | None = None) -> None:
        """Load all weights, about a second. Raises ModelRefused if one is missing or altered."""
        self._device = device or best_device()
        content = read_verified(PROJECTION_FILE, PROJECTION_SHA256)
        self._space = joint_space.from_bytes(content).to(self._device)
        self._image_tower = ImageTower(self._device)
        self.image_network = _ImageNetwork(self._image_tower, self._space).eval()
        on_cpu = self._device.type == "cpu"
        grid = self._image_tower.grid_by_onnxruntime() if on_cpu else self._image_tower.grid
        self._images = partial(self.image_network.embedded, grid)
        self._text_tower = TextTower(self._device, by_onnxruntime=on_cpu)

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """See Encoder."""
        return self._image_tower.preprocess(images)

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """See Encoder. An image and its mirror image have the same vector."""
        return unit_rows(self._images, batch, self._device)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """See Encoder; cut at 128 tokens."""
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        with busy_when_out_of_memory():
            return self._space.texts(*self._text_tower.states(texts)).cpu().numpy()


class _ImageNetwork(nn.Module):
    """Both towers on an image and its mirror image, and the space they meet in."""

    def __init__(self, tower: ImageTower, space: joint_space.JointSpace) -> None:
        super().__init__()
        self.tower, self.space = tower, space

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """batch: (N, 3, 224, 224) uint8. Returns unit (N, DIMENSIONS)."""
        # In one go, so that an exported network has its operators once.
        both = self.tower.grid(torch.cat([batch, batch.flip(3)]))
        return self._joined(both[: batch.shape[0]], both[batch.shape[0] :])

    def embedded(
        self, grid: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor
    ) -> torch.Tensor:
        """As `forward`; grid: the tower's, whoever computes it."""
        return self._joined(grid(batch), grid(batch.flip(3)))

    def _joined(self, plain: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        classes = (self.tower.classes(plain) + self.tower.classes(mirrored)) / 2
        return self.space.images(plain, mirrored, classes)
