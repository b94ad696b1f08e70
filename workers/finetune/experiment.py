"""The table of docs/benchmarks.md: recall@10 by objective and ε, in one run.

A part of the pairs is public: it makes the frozen baseline, the space and the anchors. The rest
is the private collection. Recipes are fixed here, so a run of the table searches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from retrieval.budget import Mechanism
from workers.finetune.account import noise_for
from workers.finetune.data import Private, Public, collect
from workers.finetune.features import Space, fit_space
from workers.finetune.heads import Rows, rows_of
from workers.finetune.objective import Grouped, LeastSquares, Objective, PerExample
from workers.finetune.run import TWIN_NOISE, HeldOut, recall
from workers.finetune.train import Recipe, correction, expected_parts, train

EPSILONS = (1.0, 3.0, 8.0)
SEEDS = 3
RANK = 128
STEPS = 10
TEMPERATURE = 0.07
GRADIENT_CLIP = 60.0  # a tenth of the public pairs' gradients are shorter
STATISTICS_CLIP = 4.0
NON_PRIVATE = float("inf")

# Recipes by ε; the more noise, the smaller the steps. Chosen on Flickr8k `val` in a few trials.
RATES = {
    "per_example": {1.0: 0.05, 3.0: 0.15, 8.0: 0.3, NON_PRIVATE: 0.5},
    "grouped_contrastive": {1.0: 0.02, 3.0: 0.05, 8.0: 0.1, NON_PRIVATE: 0.5},
    "whole_batch": {1.0: 1e-5, 3.0: 3e-5, 8.0: 1e-4, NON_PRIVATE: 0.5},
}
PENALTIES = {1.0: 10000.0, 3.0: 10000.0, 8.0: 3000.0, NON_PRIVATE: 300.0}


@dataclass(frozen=True)
class Cell:
    """One number of the table. epsilon: inf is the non-private twin."""

    objective: str
    epsilon: float
    seed: int
    recall_at_10: float


def table(private: Private, public: Public, held_out: HeldOut, delta: float) -> Iterator[Cell]:
    """All cells, the frozen baseline first. A seed is a run of its own: noise takes no seed."""
    space = fit_space(public, rank=RANK)
    own = rows_of(private, space)
    known = rows_of(collect(public.images, public.texts, None), space)
    baseline = recall(space.projection(torch.zeros(RANK, space.dimensions)), held_out, 10)
    yield Cell("frozen", 0.0, 0, baseline)
    for epsilon in (*EPSILONS, NON_PRIVATE):
        for name in ("least_squares", *RATES):
            objective, recipe = _setting(name, epsilon, space, own.units)
            mechanism = _mechanism(epsilon, delta, 1 if name == "least_squares" else STEPS)
            for seed in range(SEEDS if epsilon < NON_PRIVATE else 1):
                learnt = _learn(objective, recipe, mechanism, own, known)
                found = recall(space.projection(learnt), held_out, 10)
                yield Cell(name, epsilon, seed, found)


def _setting(name: str, epsilon: float, space: Space, units: int) -> tuple[Objective, Recipe]:
    if name == "least_squares":
        recipe = Recipe(1.0, penalty=PENALTIES[epsilon])
        return LeastSquares(RANK, space.dimensions, STATISTICS_CLIP), recipe
    recipe = Recipe(RATES[name][epsilon], momentum=0.5, average=0.5)
    if name == "per_example":
        per_example = PerExample(RANK, space.dimensions, GRADIENT_CLIP, space.anchors, TEMPERATURE)
        return per_example, recipe
    groups = units if name == "grouped_contrastive" else 1
    grouped = Grouped(RANK, space.dimensions, GRADIENT_CLIP, space.anchors, TEMPERATURE, groups)
    return grouped, recipe


def _mechanism(epsilon: float, delta: float, steps: int) -> Mechanism:
    """Everybody in every step: for a given ε the least noise per unit of what is learnt."""
    noise = TWIN_NOISE if epsilon == NON_PRIVATE else noise_for(epsilon, delta, 1.0, steps)
    return Mechanism(noise, 1.0, steps)


def _learn(
    objective: Objective, recipe: Recipe, mechanism: Mechanism, own: Rows, known: Rows
) -> torch.Tensor:
    parts = expected_parts(objective, own.units, mechanism.sample_rate)
    state = train(objective, own, mechanism, recipe, expected_parts=parts)
    return correction(objective, state, known, recipe, own.units)
