"""What a detector takes and gives."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Face:
    """One face. box: x, y, width, height in pixels of the upright image; score in [0, 1]."""

    box: tuple[int, int, int, int]
    score: float
    detector: str


class FaceDetector(Protocol):
    """Anything that finds faces in pixels."""

    @property
    def name(self) -> str:
        """Which detector this is."""
        ...

    def detect(self, pixels: Pixels) -> list[Face]:
        """pixels: (H, W, 3) uint8 RGB. Returns faces inside the picture, best score first."""
        ...
