"""The frozen towers of the embedded encoder, each with what it wants its input to look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from workers.encode import efficientnet_lite, minilm
from workers.encode.efficientnet_lite import EfficientNetLite
from workers.encode.encoder import Pixels
from workers.encode.weights_file import combined_digest

GRID = 3
CLASS_TEMPERATURE = 2.0  # the published classifiers are surer than they are right; chosen on val


class ImageTower(nn.Module):
    """EfficientNet-Lite0 and -Lite2 side by side."""

    digest = combined_digest([efficientnet_lite.LITE0.sha256, efficientnet_lite.LITE2.sha256])

    def __init__(self, device: torch.device | None = None) -> None:
        """Raises ModelRefused if weights are missing or altered."""
        super().__init__()
        self._networks = nn.ModuleList(
            efficientnet_lite.load(variant).to(device or torch.device("cpu"))
            for variant in (efficientnet_lite.LITE0, efficientnet_lite.LITE2)
        )

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Return (N, 3, 224, 224) uint8."""
        return efficientnet_lite.preprocess(images)

    def grid(self, batch: torch.Tensor) -> torch.Tensor:
        """batch: from `preprocess`. Returns (N, GRID × GRID, 2560), row by row."""
        return _pooled([network(batch) for network in self._networks])

    def grid_by_onnxruntime(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """As `grid`, on the CPU in half the time: the same but for float rounding."""
        networks = [cast(EfficientNetLite, each).by_onnxruntime() for each in self._networks]
        return lambda batch: _pooled([network(batch) for network in networks])

    def classes(self, grid: torch.Tensor) -> torch.Tensor:
        """grid: from `grid`. Returns (N, 1000), the mean classifier's ImageNet probabilities."""
        features = grid.mean(1).chunk(len(self._networks), 1)
        logits = [
            cast(nn.Linear, network.classifier)(part)
            for network, part in zip(self._networks, features, strict=True)
        ]
        return (torch.stack(logits).mean(0) / CLASS_TEMPERATURE).softmax(1)


def _pooled(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """maps: (N, 1280, 7, 7) of each network."""
    together = functional.adaptive_avg_pool2d(torch.cat(list(maps), 1), GRID)
    return together.flatten(2).transpose(1, 2)


class TextTower:
    """MiniLM with its tokenizer."""

    digest = combined_digest([minilm.WEIGHTS_SHA256, minilm.TOKENIZER_SHA256])

    def __init__(self, device: torch.device | None = None, *, by_onnxruntime: bool = False) -> None:
        """by_onnxruntime: on the CPU, in half the time; the same but for float rounding.

        Raises ModelRefused if weights are missing or altered.
        """
        self._device = device or torch.device("cpu")
        model = minilm.load().to(self._device)
        self._states = model.by_onnxruntime() if by_onnxruntime else model
        self._tokenizer = minilm.load_tokenizer()

    @torch.inference_mode()
    def states(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states (N, T, 384), mask (N, T) bool and their unit mean (N, 384)."""
        ids, mask = (part.to(self._device) for part in self._tokenizer(texts))
        states = self._states(ids, mask)
        return states, mask, minilm.mean_of_tokens(states, mask)
