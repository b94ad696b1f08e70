"""Training in an encoder's own space: a low-rank correction to the identity.

Where no public pairs of the collection's kind are at hand, the public head is the encoder as it
is. Directions and anchors come from public words: nothing of the collection decides them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch.nn import functional

from retrieval.budget import Mechanism
from retrieval.errors import BudgetExceeded, CaptionsUnreadable
from workers.encode.encoder import Encoder
from workers.finetune.account import noise_for
from workers.finetune.collection import TEMPLATES, TEXTS_AT_ONCE, embed_texts, in_words
from workers.finetune.data import Floats
from workers.finetune.features import Space
from workers.finetune.objective import Grouped, LeastSquares, Objective, PerExample
from workers.finetune.run import Plan
from workers.finetune.train import Recipe

OBJECTIVES = ("least-squares", "per-example", "grouped")
PUBLIC_WORDS = tuple(TEMPLATES[0].format(name) for name in IMAGENET_CLASSNAMES)
"""The names of ImageNet's classes, as open_clip ships them."""
FEWEST_PUBLIC_TEXTS = 16
RANK = 64
ANCHORS = 512
RADIUS = 1.0  # no unit vector is longer, seen along orthonormal directions
CLIP = 1.0
STATISTICS_CLIP = 0.5
STEPS = 10
TEMPERATURE = 0.07
UNITS_PER_GROUP = 8
CANARIES_PER_UNIT = 0.25
FEWEST_CANARIES, MOST_CANARIES = 40, 500
# By ε of the training alone, up to and with the bound: the more noise, the smaller the steps.
RATES = {
    "per-example": ((2.0, 0.02), (5.0, 0.05), (float("inf"), 0.1)),
    "grouped": ((2.0, 0.02), (5.0, 0.05), (float("inf"), 0.1)),
}
PENALTIES = ((2.0, 3000.0), (5.0, 1000.0), (float("inf"), 300.0))


def public_vectors(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """(P, dimensions), unit rows. Raises CaptionsUnreadable where there are too few."""
    if len(texts) < FEWEST_PUBLIC_TEXTS:
        raise CaptionsUnreadable(f"at least {FEWEST_PUBLIC_TEXTS} public texts are needed")
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    return np.concatenate(
        [embed_texts(encoder, texts[start : start + TEXTS_AT_ONCE]) for start in starts]
    )


def prototypes(encoder: Encoder, classes: Sequence[str]) -> Floats:
    """(classes, dimensions): of each public class the mean of its words' vectors."""
    texts = [text for name in dict.fromkeys(classes) for text in in_words(name)]
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    rows = [embed_texts(encoder, texts[start : start + TEXTS_AT_ONCE]) for start in starts]
    each = np.concatenate(rows) if rows else np.zeros((0, encoder.dimensions), np.float32)
    return np.asarray(each.reshape(-1, len(TEMPLATES), encoder.dimensions).mean(1))


def space_of(texts: Floats, *, classes: Floats | None = None, rank: int = RANK) -> Space:
    """A space whose head is the identity, from public words' vectors, (P, dimensions) unit rows.

    The directions are the words' principal ones, unscaled: inputs are parts of unit vectors.
    classes: (C, dimensions) frozen prototypes that images are told apart from before all words.
    """
    rows = torch.from_numpy(texts)
    centred = rows - rows.mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    dimensions = rows.shape[1]
    first = rows[:0] if classes is None else torch.from_numpy(classes)
    return Space(
        image_mean=torch.zeros(dimensions),
        text_mean=torch.zeros(dimensions),
        base=torch.eye(dimensions),
        whiten=directions.flip(1)[:, : min(rank, dimensions, len(texts) - 1)].contiguous(),
        radius=RADIUS,
        anchors=functional.normalize(torch.cat([first, rows]), dim=-1)[:ANCHORS].clone(),
    )


def plan_for(name: str, space: Space, *, epsilon: float, delta: float, units: int) -> Plan:
    """What to run for (ε, δ): everybody takes part in every step, with the least noise.

    Raises BudgetExceeded where no noise is large enough for that ε.
    """
    steps = 1 if name == "least-squares" else STEPS
    try:
        noise = noise_for(epsilon, delta, 1.0, steps)
    except ValueError as error:
        raise BudgetExceeded("no noise is large enough for that epsilon") from error
    objective, recipe = _setting(name, space, epsilon, units)
    canaries = int(min(max(CANARIES_PER_UNIT * units, FEWEST_CANARIES), MOST_CANARIES))
    return Plan(objective, Mechanism(noise, 1.0, steps), recipe, delta, canaries=canaries)


def _setting(name: str, space: Space, epsilon: float, units: int) -> tuple[Objective, Recipe]:
    rank, dimensions = space.rank, space.dimensions
    if name == "least-squares":
        penalty = _at(PENALTIES, epsilon)
        return LeastSquares(rank, dimensions, STATISTICS_CLIP), Recipe(1.0, penalty=penalty)
    recipe = Recipe(_at(RATES[name], epsilon), momentum=0.5, average=0.5)
    if name == "per-example":
        return PerExample(rank, dimensions, CLIP, space.anchors, TEMPERATURE), recipe
    groups = max(1, units // UNITS_PER_GROUP)
    return Grouped(rank, dimensions, CLIP, space.anchors, TEMPERATURE, groups), recipe


def _at(table: tuple[tuple[float, float], ...], epsilon: float) -> float:
    return next(value for bound, value in table if epsilon <= bound)
