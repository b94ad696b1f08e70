"""What an encoder is. Nothing here loads a model or imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import DeviceBusy

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]
"""One upright, de-identified image: (height, width, 3) uint8, RGB, any size from 1×1."""

Vectors = NDArray[np.float32]
"""(N, dimensions) float32, every row of unit L2 length."""


class Encoder(Protocol):
    """Maps images and words into one space where the dot product is the cosine similarity.

    A row depends on its own input only: not on the rest of the batch nor on its order, except
    for float rounding below 1e-4.
    """

    @property
    def name(self) -> str:
        """Stored beside every vector; vectors of different names are never compared."""

    @property
    def dimensions(self) -> int: ...

    @property
    def side(self) -> int:
        """Pixels along each side of what `preprocess` makes: more detail than that is not seen."""

    @property
    def digest(self) -> str:
        """sha256, 64 hex digits, over every weight and vocabulary file that shapes a vector."""

    @property
    def licence(self) -> str:
        """What the weights may be used for, as their publishers say it."""

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Return the batch `encode_images` expects: (N, 3, side, side) uint8 on the CPU.

        Holds no model state: loader threads may call it while the device encodes. Raises
        NoImageTower if the encoder reads words only; then its `side` is 0.
        """

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """Embed one batch from `preprocess`, moved to the device here.

        Raises DeviceBusy if the batch does not fit; a smaller one may.
        """

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed words; what exceeds the model's context is cut.

        Raises NoTextTower if the encoder reads images only, DeviceBusy as `encode_images`.
        """


def encode_batch(encoder: Encoder, batch: torch.Tensor) -> Vectors:
    """Embed one batch from `preprocess`, in halves where the device is too busy for the whole.

    Raises DeviceBusy only if a single image does not fit.
    """
    try:
        return encoder.encode_images(batch)
    except DeviceBusy:
        if len(batch) == 1:
            raise
        half = len(batch) // 2
        halves = [encode_batch(encoder, part) for part in (batch[:half], batch[half:])]
        return np.concatenate(halves)


def encode_all(encoder: Encoder, images: Sequence[Pixels], *, batch_size: int = 16) -> Vectors:
    """Embed any number of images that are in memory. Raises DeviceBusy as `encode_batch`."""
    rows = [np.zeros((0, encoder.dimensions), np.float32)]
    for start in range(0, len(images), batch_size):
        batch = encoder.preprocess(images[start : start + batch_size])
        rows.append(encode_batch(encoder, batch))
    return np.concatenate(rows)
