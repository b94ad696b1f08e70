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
    def digest(self) -> str:
        """sha256, 64 hex digits, over every weight and vocabulary file that shapes a vector."""

    @property
    def licence(self) -> str:
        """What the weights may be used for, as their publishers say it."""

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Return the batch `encode_images` expects: (N, 3, S, S) on the CPU.

        Holds no model state: loader threads may call it while the device encodes.
        """

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """Embed one batch from `preprocess`, moved to the device here.

        Raises DeviceBusy if the batch does not fit; a smaller one may.
        """

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed words; what exceeds the model's context is cut.

        Raises NoTextTower if the encoder reads images only, DeviceBusy as `encode_images`.
        """


def encode_all(encoder: Encoder, images: Sequence[Pixels], *, batch_size: int = 16) -> Vectors:
    """Embed any number of images, halving the batch while the device is busy.

    Raises DeviceBusy only if a single image does not fit.
    """
    rows = [np.zeros((0, encoder.dimensions), np.float32)]
    start = 0
    while start < len(images):
        chunk = images[start : start + batch_size]
        try:
            rows.append(encoder.encode_images(encoder.preprocess(chunk)))
        except DeviceBusy:
            if batch_size == 1:
                raise
            batch_size //= 2
            continue
        start += len(chunk)
    return np.concatenate(rows)
