"""The encoder every installation has: EfficientNet-Lite0 and MiniLM in one trained space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from workers.encode import lite0, minilm
from workers.encode.device import best_device, busy_when_out_of_memory
from workers.encode.encoder import Pixels, Vectors
from workers.encode.projection import Projection
from workers.encode.registry import EMBEDDED as NAME
from workers.encode.weights_file import combined_digest, read_verified

LICENCE = "Apache-2.0 towers; projection trained on Flickr8k, for research and education"
PROJECTION_FILE = Path(__file__).parent / "weights" / "projection.safetensors"
PROJECTION_SHA256 = "7582441cb32621829abbc7bdb2ed2f13dbe81aeffca7e59093616d42ef024a99"
DIGEST = combined_digest(
    [lite0.WEIGHTS_SHA256, minilm.WEIGHTS_SHA256, minilm.TOKENIZER_SHA256, PROJECTION_SHA256]
)


class EmbeddedEncoder:
    """Words and photographs; see weights/MODEL_CARD.md for what it is not good for."""

    name = NAME
    digest = DIGEST
    licence = LICENCE

    def __init__(self, device: torch.device | None = None) -> None:
        """Load all weights, about a second. Raises ModelRefused if one is missing or altered."""
        self._device = device or best_device()
        content = read_verified(PROJECTION_FILE, PROJECTION_SHA256)
        self._projection = Projection.from_bytes(content, self._device)
        self._image_tower = lite0.load().to(self._device)
        self._text_tower = minilm.load().to(self._device)
        self._tokenizer = minilm.load_tokenizer()
        self.dimensions = self._projection.dimensions

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """See Encoder: (N, 3, 224, 224) float32."""
        return lite0.preprocess(images)

    @torch.inference_mode()
    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """See Encoder."""
        with busy_when_out_of_memory():
            features = self._image_tower(batch.to(self._device)).mean((2, 3))
            return self._projection.images(features).cpu().numpy()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """See Encoder; cut at 128 tokens."""
        with busy_when_out_of_memory():
            ids, mask = (part.to(self._device) for part in self._tokenizer(texts))
            features = minilm.mean_of_tokens(self._text_tower(ids, mask), mask)
            return self._projection.texts(features).cpu().numpy()
