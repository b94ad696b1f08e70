"""The trainer: draw units, take the bounded sum, add noise, move. Everything else is public.

The only contact with the private rows is `release`. What follows from its answers costs nothing
more (post-processing), so momentum, averaging and shrinking are free, and so is looking at them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from retrieval.budget import Mechanism
from workers.finetune import sampler
from workers.finetune.heads import Rows
from workers.finetune.objective import Grouped, LeastSquares, Objective, whole, within


@dataclass(frozen=True)
class Recipe:
    """How releases become weights. Chosen on public data; a search on private data is charged."""

    learning_rate: float  # in units of `clip`: a step of full agreement moves this far
    momentum: float = 0.9
    shrink: float = 0.0  # weight decay towards the public head, per step
    average: float = 0.9  # of the weights over the last steps
    penalty: float = 3000.0  # ridge penalty of least squares


@dataclass(frozen=True)
class State:
    """A run between two steps. All of it is already private, except that it must not be edited."""

    weights: torch.Tensor  # (size,)
    velocity: torch.Tensor
    averaged: torch.Tensor
    trace: torch.Tensor  # sum of all releases: what the strongest attack looks at
    done: int = 0


def begin(objective: Objective) -> State:
    """The public head: no correction yet."""
    zeros = torch.zeros(objective.size)
    return State(zeros, zeros, zeros, zeros)


def release(
    objective: Objective, weights: torch.Tensor, rows: Rows, mechanism: Mechanism
) -> torch.Tensor:
    """One step's noisy sum over units drawn afresh; noise also where nobody was drawn."""
    drawn = sampler.poisson(rows.units, mechanism.sample_rate)
    total = objective.clipped_sum(weights, rows, drawn)
    return sampler.noisy(total, mechanism.noise_multiplier, objective.clipping.sensitivity)


def advance(
    state: State, noisy: torch.Tensor, objective: Objective, expected: float, recipe: Recipe
) -> State:
    """Move by one release. expected: mean number of clipped parts in a step, known beforehand.

    Never divides by the number actually drawn: that number is private.
    """
    velocity = recipe.momentum * state.velocity + noisy / (expected * objective.clip)
    weights = (1 - recipe.shrink) * state.weights + recipe.learning_rate * velocity
    keep = min(recipe.average, state.done / (state.done + 1))
    averaged = keep * state.averaged + (1 - keep) * weights
    return replace(
        state,
        weights=weights,
        velocity=velocity,
        averaged=averaged,
        trace=state.trace + noisy,
        done=state.done + 1,
    )


def train(
    objective: Objective,
    rows: Rows,
    mechanism: Mechanism,
    recipe: Recipe,
    *,
    expected_parts: float,
    state: State | None = None,
    after_step: Callable[[State], None] = lambda _: None,
) -> State:
    """Take the mechanism's steps, those already in `state` left out."""
    state = begin(objective) if state is None else state
    while state.done < mechanism.steps:
        noisy = release(objective, state.weights, rows, mechanism)
        state = advance(state, noisy, objective, expected_parts, recipe)
        after_step(state)
    return state


def solve(
    objective: LeastSquares, trace: torch.Tensor, public: Rows, recipe: Recipe, units: int
) -> torch.Tensor:
    """The ridge weights (rank, dimensions) from released statistics, the public ones added.

    The released second moment may be indefinite after noise: its negative part is cut off.
    """
    left = public.inputs
    residual = within(objective.basis, public.targets - public.start)
    both = trace.view(objective.rank, objective.width)
    cross = both[:, : objective.dimensions] + left.T @ residual
    moment = left.T @ left
    if objective.moment_weight:
        private = both[:, objective.dimensions :] / objective.moment_weight
        moment = moment + (private + private.T) / 2
    else:
        moment = moment * (1 + units / len(left))
    values, vectors = torch.linalg.eigh(moment)
    solved: torch.Tensor = vectors @ (
        (vectors.T @ cross) / (values.clamp_min(0) + recipe.penalty)[:, None]
    )
    return solved


def correction(
    objective: Objective, state: State, public: Rows, recipe: Recipe, units: int
) -> torch.Tensor:
    """(rank, t): what is added to the public head."""
    if isinstance(objective, LeastSquares):
        solved = solve(objective, state.trace, public, recipe, units)
        return whole(objective.basis, solved)
    return objective.correction(state.averaged)


def expected_parts(objective: Objective, units: int, rate: float) -> float:
    """Mean number of parts of length `clip` in a step: units drawn, or groups clipped whole."""
    drawn = rate * units
    if isinstance(objective, Grouped) and objective.mixing is None:
        return min(objective.groups, drawn)
    return drawn
