"""Opacus' hooks against our closed form, and what no hook can make private."""

from typing import cast

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.accountants import PRVAccountant
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn import functional

from retrieval.budget import Mechanism
from retrieval.errors import ObjectiveRefused
from tests.finetune import toy
from workers.finetune import account, ghost, sampler, train
from workers.finetune.adapter import Adapter
from workers.finetune.heads import low_rank
from workers.finetune.objective import PerExample, per_example_loss


def plain() -> nn.Linear:
    matrix = nn.Linear(toy.RANK, toy.TEXT, bias=False)
    nn.init.zeros_(matrix.weight)
    return matrix


def in_batch(
    output: torch.Tensor, targets: torch.Tensor, anchors: torch.Tensor, temperature: float
) -> torch.Tensor:
    score = functional.normalize(output, dim=-1) @ targets.T / temperature
    return functional.cross_entropy(score, torch.arange(len(score)), reduction="none")


def test_the_closed_form_clips_as_opacus_does_with_one_image_per_subject() -> None:
    """Opacus: per-sample gradients by its hooks, then min(1, C / norm), as its DPOptimizer."""
    where, rows = toy.space(), toy.rows(40)
    weights = torch.randn(toy.RANK * toy.TEXT, generator=torch.Generator().manual_seed(1)) / 50
    module = plain()
    with torch.no_grad():
        module.weight.copy_(weights.view(toy.RANK, toy.TEXT).mT)
    hooked = GradSampleModule(module, loss_reduction="sum")
    output = rows.start + hooked(rows.inputs)
    torch.autograd.backward(per_example_loss(output, rows.targets, where.anchors, 0.1).sum())
    gradient = cast(torch.Tensor, vars(module.weight)["grad_sample"])
    norm = gradient.flatten(1).norm(dim=1)
    by_opacus = torch.einsum("n,nij->ij", (toy.CLIP / (norm + 1e-6)).clamp(max=1), gradient)

    ours = PerExample(toy.RANK, toy.TEXT, toy.CLIP, where.anchors, 0.1)
    drawn = sampler.poisson(40, 1.0)
    summed = ours.clipped_sum(weights, rows, drawn).view(toy.RANK, toy.TEXT).float()

    assert (norm > toy.CLIP).any()
    assert torch.allclose(summed, -by_opacus.T, atol=1e-5)


def lora_after_steps(*, ghosts: bool) -> tuple[Adapter, torch.Tensor]:
    adapter = Adapter(
        low_rank(toy.RANK, toy.TEXT, inner=8), 30.0, toy.space().anchors, 0.1, ghost=ghosts
    )
    return adapter, torch.randn(adapter.size, generator=torch.Generator().manual_seed(3)) / 20


def test_ghost_clipping_sums_what_opacus_hooks_do_for_subjects_with_several_images() -> None:
    rows = toy.rows(60, subjects=[f"s{row // 3 if row < 40 else row}" for row in range(60)])
    drawn = np.arange(rows.units)
    hooks, weights = lora_after_steps(ghosts=False)
    ghosts, _ = lora_after_steps(ghosts=True)

    held = hooks.clipped_sum(weights, rows, drawn)

    assert torch.allclose(ghosts.clipped_sum(weights, rows, drawn), held, atol=1e-3)
    # Some are clipped and others are not, or the comparison would say little.
    lengths = [float(hooks.clipped_sum(weights, rows, drawn[[one]]).norm()) for one in drawn]
    assert min(lengths) < 0.99 * hooks.clip
    assert max(lengths) == pytest.approx(hooks.clip, rel=1e-4)


def test_ghost_clipping_sums_what_opacus_ghost_clipping_does() -> None:
    """Its two passes backwards, with one image per subject."""
    rows = toy.rows(40)
    adapter, weights = lora_after_steps(ghosts=True)
    module = GradSampleModuleFastGradientClipping(
        adapter._at(weights), max_grad_norm=adapter.clip, loss_reduction="sum"
    )
    output = rows.start + module(rows.inputs)
    losses = per_example_loss(output, rows.targets, adapter.anchors, 0.1)
    torch.autograd.backward(losses.sum(), retain_graph=True)
    coefficients = module.get_clipping_coef()
    module.zero_grad()
    module.disable_hooks()
    torch.autograd.backward((coefficients * losses).sum())
    theirs = torch.cat([cast(torch.Tensor, part.grad).flatten() for part in module.parameters()])

    ours = adapter.clipped_sum(weights, rows, np.arange(40))

    assert torch.allclose(ours.float(), -theirs, atol=1e-3)


def test_under_reduced_precision_no_unit_is_longer_than_the_clip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a GPU does, on the CPU: norm and sum are of the same rounded tensors."""
    rows = toy.rows(30)
    adapter, weights = lora_after_steps(ghosts=True)
    exact = adapter.clipped_sum(weights, rows, np.arange(30))
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: autocast(kind, dtype))

    rounded = adapter.clipped_sum(weights, rows, np.arange(30))

    assert not torch.equal(rounded, exact)
    assert torch.allclose(rounded, exact, atol=0.1 * float(exact.norm()))
    for one in range(30):
        assert (
            float(adapter.clipped_sum(weights, rows, np.array([one])).norm()) <= adapter.clip + 1e-4
        )


def test_ghost_clipping_is_refused_where_something_else_than_matrices_is_trained() -> None:
    twice = nn.Linear(toy.TEXT, toy.TEXT, bias=False)
    for module in (nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4, bias=False))):
        with pytest.raises(ObjectiveRefused, match="matrices without bias"):
            ghost.trained_layers(module)
    with pytest.raises(ObjectiveRefused, match="used twice"):
        ghost.clipped_sum(
            nn.Sequential(twice, twice),
            lambda output: output.sum(1),
            torch.randn(3, toy.TEXT),
            np.arange(3),
            1.0,
        )


def test_our_epsilon_is_that_of_opacus_own_accountant() -> None:
    theirs = PRVAccountant()
    for _ in range(5):
        theirs.step(noise_multiplier=6.0, sample_rate=1.0)
    ours = account.epsilon([Mechanism(6.0, 1.0, 5)], 1e-5)

    assert ours == pytest.approx(theirs.get_epsilon(1e-5, eps_error=1e-3), abs=2e-3)


def test_a_lora_adapter_learns_with_both_factors_and_folds_into_one_matrix() -> None:
    where, rows = toy.space(), toy.rows(100)
    adapter = Adapter(low_rank(toy.RANK, toy.TEXT, inner=8), toy.CLIP, where.anchors, 0.1)
    quiet = Mechanism(1e-6, 1.0, 20)
    state = train.train(adapter, rows, quiet, train.Recipe(0.05), expected_parts=100)
    learnt = train.correction(adapter, state, rows, train.Recipe(0.05), 100)

    def loss(correction: torch.Tensor) -> float:
        output = rows.start + rows.inputs @ correction
        return float(per_example_loss(output, rows.targets, where.anchors, 0.1).mean())

    assert torch.linalg.matrix_rank(learnt) <= 8
    assert state.averaged[: toy.RANK * 8].any()  # the first factor moved, too
    assert loss(learnt) < 0.9 * loss(torch.zeros_like(learnt))


def test_an_in_batch_loss_is_refused_by_what_it_does() -> None:
    with pytest.raises(ObjectiveRefused, match="does not separate per example"):
        Adapter(plain(), toy.CLIP, toy.space().anchors, 0.1, loss=in_batch)


def test_an_adapter_with_batch_norm_is_refused() -> None:
    mixing = nn.Sequential(plain(), nn.BatchNorm1d(toy.TEXT))
    with pytest.raises(ObjectiveRefused, match="GroupNorm or LayerNorm"):
        Adapter(mixing, toy.CLIP, toy.space().anchors, 0.1)
