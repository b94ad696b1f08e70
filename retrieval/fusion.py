"""One query vector from several: words, examples, and what is not wanted."""

from collections.abc import Sequence

import numpy as np


def combine(wanted: Sequence[np.ndarray], unwanted: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The unit vector nearest to all of `wanted` and away from `unwanted`.

    Each is a (dimensions,) float32 unit vector of one space. Wanted ones count alike; unwanted
    ones half, as in Rocchio's relevance feedback (1971), where a full weight would drown the
    query. Raises ValueError where nothing is wanted, or where everything cancels out.
    """
    if not wanted:
        raise ValueError("a query wants something")
    mixed: np.ndarray = np.mean(wanted, axis=0)
    if unwanted:
        mixed = mixed - 0.5 * np.mean(unwanted, axis=0)
    norm = float(np.linalg.norm(mixed))
    if not norm > 0:
        raise ValueError("the parts of the query cancel each other out")
    return np.asarray(mixed / norm, dtype=np.float32)
