"""The audit passes the honest trainer and catches three that are broken on purpose."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from retrieval.budget import Mechanism
from retrieval.errors import RunVoid
from tests.finetune import toy
from workers.finetune import attack, sampler, train
from workers.finetune.account import epsilon
from workers.finetune.heads import Rows
from workers.finetune.objective import Objective, PerExample

DELTA = 1e-5
CANARIES = 600
RECIPE = train.Recipe(learning_rate=0.01)
Release = Callable[[Objective, torch.Tensor, Rows, Mechanism], torch.Tensor]
honest = train.release


def without_noise(
    objective: Objective, weights: torch.Tensor, rows: Rows, mechanism: Mechanism
) -> torch.Tensor:
    return objective.clipped_sum(weights, rows, sampler.poisson(rows.units, 0.5)).float()


def clipping_the_batch(
    objective: Objective, weights: torch.Tensor, rows: Rows, mechanism: Mechanism
) -> torch.Tensor:
    """The mean gradient is clipped, and noised as if each unit's had been."""
    assert isinstance(objective, PerExample)
    loose = PerExample(toy.RANK, toy.TEXT, 1e9, objective.anchors, objective.temperature)
    drawn = sampler.poisson(rows.units, mechanism.sample_rate)
    mean = loose.clipped_sum(weights, rows, drawn) / len(drawn)
    clipped = mean * min(1.0, objective.clip / float(mean.norm())) * len(drawn)
    noise = sampler.gaussian(objective.size, mechanism.noise_multiplier * objective.clip)
    return (clipped + noise).float()


def noise_in_the_first_step_only() -> Release:
    steps = iter(range(10_000))

    def release(
        objective: Objective, weights: torch.Tensor, rows: Rows, mechanism: Mechanism
    ) -> torch.Tensor:
        step = honest if next(steps) == 0 else without_noise
        return step(objective, weights, rows, mechanism)

    return release


def audited(objective: Objective) -> attack.Audit:
    rows = toy.rows()
    canaries = attack.plant(CANARIES, rows, radius=toy.space().radius)
    both = rows.joined(canaries.taking_part())
    state = train.train(objective, both, toy.STEPS, RECIPE, expected_parts=150)
    score = attack.scores(objective, state.trace, canaries.rows)
    return attack.audit(score, canaries.included, delta=DELTA)


@pytest.fixture(scope="module")
def claimed() -> float:
    return epsilon([toy.STEPS], DELTA)


def trained_by(release: Release, monkeypatch: pytest.MonkeyPatch) -> attack.Audit:
    monkeypatch.setattr(train, "release", release)
    return audited(toy.objectives(toy.space())[2])


def test_the_honest_trainer_passes_the_audit_with_a_wide_margin(claimed: float) -> None:
    _, statistics, per_example, _, adapter, _, grouped, _ = toy.objectives(toy.space())
    for objective in (statistics, per_example, adapter, grouped):
        found = audited(objective)
        attack.reject_if_disproved(found, claimed)
        assert found.epsilon_at_least < 0.8 * claimed


def test_a_trainer_without_noise_is_rejected(
    claimed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunVoid, match="canaries prove"):
        attack.reject_if_disproved(trained_by(without_noise, monkeypatch), claimed)


def test_a_trainer_that_clips_the_batch_and_not_each_unit_is_rejected(
    claimed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunVoid, match="canaries prove"):
        attack.reject_if_disproved(trained_by(clipping_the_batch, monkeypatch), claimed)


def test_a_trainer_that_adds_its_noise_once_is_rejected(
    claimed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunVoid, match="canaries prove"):
        attack.reject_if_disproved(trained_by(noise_in_the_first_step_only(), monkeypatch), claimed)


def test_the_lower_bound_is_that_of_randomised_response() -> None:
    """At δ = 0 the worst case is r coins of bias e^ε / (1 + e^ε): the bound covers 95 %."""
    generator, epsilon_true = np.random.default_rng(0), 1.0
    bias = 1 / (1 + np.exp(-epsilon_true))
    correct = generator.binomial(500, bias, size=2000)
    refuted = [attack.tail(500, 500, int(v), epsilon_true, 0.0) <= 0.05 for v in set(correct)]
    share = np.isin(correct, np.array(list(set(correct)))[refuted]).mean()
    assert 0.02 < share < 0.06
    assert attack.epsilon_at_least(500, 500, 250, 0.0) == 0
    assert attack.epsilon_at_least(100, 100, 100, 0.0) == pytest.approx(3.49, abs=0.02)


def test_a_larger_delta_weakens_what_guesses_prove() -> None:
    bounds = [attack.epsilon_at_least(1000, 200, 190, delta) for delta in (0.0, 1e-5, 1e-3)]
    assert bounds[0] > bounds[1] > bounds[2]


def test_membership_is_a_coin_for_equal_scores_and_certain_for_separate_ones() -> None:
    alike = attack.membership(np.arange(1000.0), np.arange(1000.0))
    apart = attack.membership(np.arange(100.0) + 1000, np.arange(100.0))
    assert alike.auc == pytest.approx(0.5)
    assert alike.true_positives_at_1_percent == pytest.approx(0.01, abs=0.002)
    assert (apart.auc, apart.true_positives_at_1_percent) == (1.0, 1.0)
