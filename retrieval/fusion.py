"""One query vector from several, one ranking from several, and a ranking that repeats less."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

UNWANTED_WEIGHT = 0.5
"""What is not wanted counts half: a full weight would drown the query."""
LIKED_WEIGHT = 0.75
DISLIKED_WEIGHT = 0.15
"""Of judged images beside a query of weight 1: Rocchio 1971, in the values of Manning, Raghavan &
Schütze 2008, "Introduction to Information Retrieval", section 9.1.1."""
RANK_OFFSET = 60
"""The constant k of reciprocal rank fusion: Cormack, Clarke & Büttcher 2009."""

Item = TypeVar("Item", bound=Hashable)
Weighted = tuple[np.ndarray, float]


def combine(
    parts: Sequence[Weighted],
    *,
    liked: Sequence[np.ndarray] = (),
    disliked: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """The unit vector nearest to all that is wanted and away from what is not.

    parts: (dimensions,) float32 unit vectors of one space with their weights, those below 0
    unwanted. liked, disliked: those of judged images. Raises ValueError where nothing is wanted,
    or where everything cancels out.
    """
    wanted = [(vector, weight) for vector, weight in parts if weight > 0]
    unwanted = [(vector, -weight) for vector, weight in parts if weight < 0]
    if not (wanted or liked):
        raise ValueError("a query wants something")
    # Judged images refine a query; where there is none, they are the query.
    mixed = _mean(wanted) if wanted else np.mean(liked, axis=0)
    if unwanted:
        mean_weight = sum(weight for _, weight in unwanted) / len(unwanted)
        mixed = mixed - UNWANTED_WEIGHT * mean_weight * _mean(unwanted)
    if liked and wanted:
        mixed = mixed + LIKED_WEIGHT * np.mean(liked, axis=0)
    if disliked:
        mixed = mixed - DISLIKED_WEIGHT * np.mean(disliked, axis=0)
    norm = float(np.linalg.norm(mixed))
    if not norm > 0:
        raise ValueError("the parts of the query cancel each other out")
    return np.asarray(mixed / norm, dtype=np.float32)


def _mean(parts: Sequence[Weighted]) -> np.ndarray:
    vectors, weights = zip(*parts, strict=True)
    return np.asarray(np.average(vectors, axis=0, weights=weights))


def fuse_ranks(rankings: Sequence[tuple[Sequence[Item], float]]) -> list[tuple[Item, float]]:
    """Reciprocal rank fusion of weighted rankings, best first, each with a score in (0, 1].

    1 is the first of all rankings. Of equal scores, what came first in the earlier ranking.
    """
    scores: dict[Item, float] = defaultdict(float)
    for ranking, weight in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] += weight / (RANK_OFFSET + rank)
    best = sum(weight for _, weight in rankings) / (RANK_OFFSET + 1)
    fused = sorted(scores.items(), key=lambda scored: -scored[1])
    return [(item, score / best) for item, score in fused]


def diversify(
    similarities: np.ndarray, vectors: np.ndarray, *, diversity: float, limit: int
) -> list[int]:
    """Maximal marginal relevance: Carbonell & Goldstein 1998, with λ = 1 - diversity.

    similarities: (n,) of candidates to the query; vectors: (n, dimensions) unit rows. Returns
    the places of at most `limit` of them, in the order they are to be shown.
    """
    left = list(range(len(similarities)))
    closest_shown = np.full(len(similarities), -1.0)
    shown: list[int] = []
    while left and len(shown) < limit:
        gains = (1.0 - diversity) * similarities[left] - diversity * closest_shown[left]
        chosen = left.pop(int(np.argmax(gains)) if shown else int(np.argmax(similarities[left])))
        shown.append(chosen)
        np.maximum(closest_shown, vectors @ vectors[chosen], out=closest_shown)
    return shown
