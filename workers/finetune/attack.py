"""Attacks every model must survive: an audit by canaries in its own run, and membership.

One-run audit: Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run",
arXiv 2305.08846. Canaries are put in on a coin each; whoever guesses many coins right from what
the run released has shown that its ε is at least so large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch.nn import functional

from retrieval.errors import RunVoid
from workers.finetune import sampler
from workers.finetune.heads import Rows
from workers.finetune.objective import Objective

CONFIDENCE = 0.95
GUESSED = 0.2
"""Share of canaries guessed on, half "in" and half "out": fixed before the run, as it must be."""
COIN = 0.5
PRECISION = 1e-4
LARGEST_EPSILON = 50.0
FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Canaries:
    """Planted units of one row each, and who of them took part."""

    rows: Rows  # all of them
    included: NDArray[np.bool_]

    def taking_part(self) -> Rows:
        chosen = np.flatnonzero(self.included)
        rows = self.rows
        return Rows(
            rows.inputs[chosen],
            rows.start[chosen],
            rows.targets[chosen],
            np.arange(len(chosen)),
            len(chosen),
        )


@dataclass(frozen=True)
class Audit:
    """What the guesses prove at 95 %: the run's ε, at its δ, is not below `epsilon_at_least`."""

    canaries: int
    guesses: int
    correct: int
    epsilon_at_least: float
    confidence: float


@dataclass(frozen=True)
class Membership:
    """How well training images are told from others: 0.5 and 0.01 are those of a coin."""

    auc: float
    true_positives_at_1_percent: float


def plant(count: int, like: Rows, *, radius: float) -> Canaries:
    """Mislabelled canaries in random, hence nearly orthogonal, directions.

    Each is as long as an input may be, and its text is the opposite of what the public head
    would say: its gradient is large, clipped, and nobody else's. `like` are public rows: canaries
    made to the measure of private ones would carry one unit's change into every clipped part.
    """
    generator = np.random.default_rng(int(sampler.uniform(1)[0] * 2**53))
    inputs = torch.from_numpy(generator.normal(size=(count, like.inputs.shape[1]))).float()
    start = torch.from_numpy(generator.normal(size=(count, like.targets.shape[1]))).float()
    rows = Rows(
        functional.normalize(inputs, dim=1) * radius,
        functional.normalize(start, dim=1) * like.start.norm(dim=1).median(),
        functional.normalize(torch.from_numpy(generator.normal(size=start.shape)).float(), dim=1),
        np.arange(count),
        count,
    )
    return Canaries(rows, sampler.uniform(count) < COIN)


def scores(objective: Objective, trace: torch.Tensor, rows: Rows) -> NDArray[np.float64]:
    """How far the run's releases lie along each row's own descent: higher is "was in"."""
    return np.asarray(objective.alignment(trace, rows).double())


def audit(score: NDArray[np.float64], included: NDArray[np.bool_], *, delta: float) -> Audit:
    """Guess "in" for the highest scores, "out" for the lowest, and bound ε from below."""
    half = max(1, int(len(score) * GUESSED / 2))
    order = np.argsort(score, kind="stable")
    correct = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
    bound = epsilon_at_least(len(score), 2 * half, correct, delta)
    return Audit(len(score), 2 * half, correct, bound, CONFIDENCE)


def epsilon_at_least(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The largest ε that so many correct guesses refute."""
    if tail(canaries, guesses, correct, 0.0, delta) > 1 - confidence:
        return 0.0
    low, high = 0.0, LARGEST_EPSILON
    while high - low > PRECISION:
        middle = (low + high) / 2
        refuted = tail(canaries, guesses, correct, middle, delta) <= 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def tail(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The most likely that (ε, δ) allows `correct` or more of `guesses` to be (theorem 5.2).

    With W ~ Binomial(guesses, e^ε / (1 + e^ε)) it is
    P[W ≥ v] + 2 m δ · max over i in 1..v of P[v - i ≤ W < v] / i, m canaries, v correct.
    """
    wins = stats.binom(guesses, 1 / (1 + math.exp(-epsilon)))
    reached = float(wins.sf(correct - 1))
    if delta == 0 or correct == 0:
        return min(1.0, reached)
    steps = np.arange(1, correct + 1)
    just_below = wins.sf(correct - steps - 1) - reached
    return float(min(1.0, reached + 2 * canaries * delta * (just_below / steps).max()))


def reject_if_disproved(found: Audit, epsilon: float) -> None:
    """Raise RunVoid where the attack proved more than the accountant claims."""
    if found.epsilon_at_least > epsilon:
        raise RunVoid(
            f"the canaries prove epsilon >= {found.epsilon_at_least:.3g}, claimed {epsilon:.3g}"
        )


def membership(members: NDArray[np.float64], others: NDArray[np.float64]) -> Membership:
    """From scores that are higher for members: AUC (ties count half) and TPR at 1 % FPR."""
    statistic = stats.mannwhitneyu(members, others).statistic
    threshold = np.quantile(others, 1 - FALSE_ALARMS, method="higher")
    return Membership(
        float(statistic) / (len(members) * len(others)), float((members > threshold).mean())
    )


def fit_gain(correction: torch.Tensor, rows: Rows) -> NDArray[np.float64]:
    """(N,): by how much each pair lies closer after training than under the public head."""
    before = functional.normalize(rows.start, dim=-1)
    after = functional.normalize(rows.start + rows.inputs @ correction, dim=-1)
    return np.asarray(((after - before) * rows.targets).sum(1).double())
