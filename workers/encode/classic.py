"""Features without a network: what colours, what edges, what texture. They find images by images.

For collections where likeness is meant literally (scans, slides, product photographs), and as a
yardstick for the learned encoders. Every part is a histogram whose square roots are compared, so
that a dot product is the mean of three Bhattacharyya coefficients (Arandjelović & Zisserman 2012,
"Three things everyone should know to improve object retrieval", section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import local_binary_pattern

from retrieval.errors import NoTextTower
from workers.encode.encoder import Pixels, Vectors
from workers.encode.registry import CLASSIC
from workers.encode.weights_file import combined_digest

Floats = NDArray[np.float32]

RECIPE = "1"
"""Raised with whatever changes a vector: the digest is of this."""
SIDE = 128  # pixels
LAB_BINS = (4, 8, 8)
MOST_CHROMA = 64.0  # of a* and b*; beyond it colours are alike saturated
EDGE_CELLS, EDGE_BINS = 4, 9
TEXTURE_CELLS, TEXTURE_POINTS, TEXTURE_RADIUS = 2, 8, 1.0


class ClassicEncoder:
    """CIELAB colour, edge orientation and local binary patterns; no weights, no GPU."""

    name = CLASSIC
    dimensions = (
        LAB_BINS[0] * LAB_BINS[1] * LAB_BINS[2]
        + EDGE_CELLS**2 * EDGE_BINS
        + TEXTURE_CELLS**2 * (TEXTURE_POINTS + 2)
    )
    side = SIDE
    digest = combined_digest([CLASSIC, RECIPE])
    licence = "Apache-2.0"

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """See Encoder: (N, 3, 128, 128) uint8."""
        resized = [
            np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))
            for image in images
        ]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """See Encoder; on the CPU, one by one."""
        return np.stack([_features(pixels) for pixels in batch.permute(0, 2, 3, 1).numpy()])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Raises NoTextTower."""
        raise NoTextTower("the encoder in use reads images only: ask with an image")


def _features(pixels: Pixels) -> Floats:
    """pixels: (SIDE, SIDE, 3). Returns (dimensions,), unit L2."""
    pixels = np.ascontiguousarray(pixels)
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    parts = [_colour(pixels), _edges(grey), _texture(grey)]
    joined = np.concatenate([np.sqrt(part / part.sum()) for part in parts])
    return np.asarray(joined / np.linalg.norm(joined), np.float32)


def _colour(pixels: Pixels) -> Floats:
    """A joint histogram over L*, a* and b*: equal steps look about equally different there."""
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab[..., 1:] = np.clip(lab[..., 1:], -MOST_CHROMA, MOST_CHROMA)
    beyond = MOST_CHROMA + 1e-3  # the upper end of a range is exclusive
    ranges = [0, 100 + 1e-3, -MOST_CHROMA, beyond, -MOST_CHROMA, beyond]
    counted = cv2.calcHist([lab], [0, 1, 2], None, list(LAB_BINS), ranges)
    return np.asarray(counted, np.float32).ravel()


def _edges(grey: NDArray[np.uint8]) -> Floats:
    """Unsigned gradient orientations by cell, weighted by their strength (Dalal & Triggs 2005,
    "Histograms of Oriented Gradients for Human Detection", section 6, without its blocks)."""
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength, angle = cv2.cartToPolar(across, down)
    orientation = np.minimum((angle % np.pi) * (EDGE_BINS / np.pi), EDGE_BINS - 1).astype(np.intp)
    # One is added to each bin: a plain picture has no orientation, and all of them alike.
    return _by_cell(orientation, np.asarray(strength, np.float32), EDGE_CELLS, EDGE_BINS) + 1


def _texture(grey: NDArray[np.uint8]) -> Floats:
    """Uniform, rotation-invariant local binary patterns by cell (Ojala, Pietikäinen & Mäenpää
    2002, "Multiresolution Gray-Scale and Rotation Invariant Texture Classification")."""
    patterns = local_binary_pattern(grey, TEXTURE_POINTS, TEXTURE_RADIUS, method="uniform")  # type: ignore[no-untyped-call]
    each_once = np.ones(patterns.shape, np.float32)
    return _by_cell(patterns.astype(np.intp), each_once, TEXTURE_CELLS, TEXTURE_POINTS + 2)


def _by_cell(values: NDArray[np.intp], weights: Floats, cells: int, bins: int) -> Floats:
    """Weighted counts of values below `bins`, one histogram for each of cells × cells squares."""
    place = np.arange(SIDE) * cells // SIDE
    slot = (place[:, None] * cells + place) * bins + values
    counted = np.bincount(slot.ravel(), weights.ravel(), minlength=cells * cells * bins)
    return counted.astype(np.float32)
