"""The ledger of privacy: what was spent on a collection, and what may still be.

Every private training reserves before its first gradient and settles after its last. Composition
is the worker's accountant: nothing here knows how ε follows from noise.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Mechanism:
    """`steps` Poisson-sampled Gaussian mechanisms in a row, all with the same noise.

    noise_multiplier: σ, the noise's standard deviation over the sensitivity of one unit; > 0.
    sample_rate: q in (0, 1], the probability with which a unit takes part in a step.
    q = 1 and one step is the plain Gaussian mechanism.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError("a mechanism without noise has no epsilon")
        if not 0 < self.sample_rate <= 1:
            raise ValueError("a sample rate lies in (0, 1]")
        if self.steps < 1:
            raise ValueError("a mechanism runs at least once")
