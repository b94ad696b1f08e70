"""Which units take part in a step, and the noise: both from the system's secure generator.

Neither takes a seed. Noise that can be computed again can be subtracted again, and a sample that
is known in advance amplifies nothing; so a resumed run draws afresh as well. Opacus asks for
torchcsprng for this, which is no longer built for current torch.
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from numpy.typing import NDArray

MANTISSA = 53
SUMMANDS = 4
GRID = 2.0**-30  # of the sensitivity: a million numbers rounded to it are off by less than ROUNDING


def uniform(count: int) -> NDArray[np.float64]:
    """`count` numbers, uniform in (0, 1), 53 random bits each."""
    bits = np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(64 - MANTISSA)
    return np.asarray((bits + 0.5) * 2.0**-MANTISSA)


def poisson(units: int, rate: float) -> NDArray[np.int64]:
    """The units of one step: each on its own coin of probability `rate`; perhaps none at all.

    A shuffled batch of fixed size is not this, though it is often accounted as if it were,
    which can overstate privacy fourfold (Chua et al. 2024, arXiv 2403.17673).
    """
    if not 0 < rate <= 1:
        raise ValueError("a sampling rate lies in (0, 1]")
    return np.flatnonzero(uniform(units) < rate)


def labels(count: int, groups: int) -> NDArray[np.int64]:
    """An independent uniform group in [0, groups) for each of `count` units."""
    return np.asarray(uniform(count) * groups, np.int64)


def gaussian(size: int, deviation: float) -> torch.Tensor:
    """(size,) float64 normal noise.

    Each number is the sum of four: the low bits of a single floating-point draw betray it
    (Mironov 2012), those of a sum do not at feasible cost (Holohan, Braghin 2021, section 5).
    """
    half = (size * SUMMANDS + 1) // 2
    radius, angle = np.sqrt(-2 * np.log(uniform(half))), 2 * np.pi * uniform(half)
    drawn = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: size * SUMMANDS]
    return torch.from_numpy(drawn.reshape(SUMMANDS, size).sum(0) * (deviation / SUMMANDS**0.5))


def noisy(total: torch.Tensor, noise_multiplier: float, sensitivity: float) -> torch.Tensor:
    """(size,) float32: `total` with normal noise, both whole multiples of one public step.

    Added as they are, a sum smaller than its noise keeps low bits that the noise never has, and
    they are the data's. On a grid the outcome is the rounding of what a Gaussian mechanism gives
    for the rounded sum, and rounding tells nothing more.
    """
    step = 2.0 ** math.floor(math.log2(sensitivity)) * GRID
    noise = gaussian(len(total), noise_multiplier * sensitivity)
    # Whole numbers, exact in float64 up to 2**53: sums of eight million parts.
    whole = (total.double() / step).round() + (noise / step).round()
    return (whole * step).float()
