"""What one subject can change in a step's sum, for each objective."""

import numpy as np
import pytest
import torch
from torch import nn

from retrieval.errors import ObjectiveRefused
from tests.finetune import toy
from workers.finetune import sampler
from workers.finetune.data import collect
from workers.finetune.heads import Rows, low_rank, refuse_mixing_layers, rows_of
from workers.finetune.objective import (
    Grouped,
    PerExample,
    clipped_outer_sum,
    in_batch_contrastive,
    per_example_loss,
)

SUBJECTS = [f"s{row // 3}" for row in range(60)]


def without(rows: Rows, unit: int) -> np.ndarray:
    return np.setdiff1d(np.arange(rows.units), [unit])


@pytest.mark.parametrize("which", range(8))
def test_one_subject_moves_the_sum_by_no_more_than_the_sensitivity(
    which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = toy.space()
    rows = rows_of(toy.private(60, subjects=SUBJECTS), where)
    objective = toy.objectives(where, groups=4)[which]
    label = sampler.labels(rows.units, 4)
    everyone, moved = np.arange(rows.units), []
    for unit in range(0, rows.units, 2):
        kept = without(rows, unit)
        monkeypatch.setattr(sampler, "labels", lambda count, groups: label)
        whole = objective.clipped_sum(torch.zeros(objective.size), rows, everyone)
        monkeypatch.setattr(sampler, "labels", lambda count, groups, kept=kept: label[kept])
        rest = objective.clipped_sum(torch.zeros(objective.size), rows, kept)
        moved.append(float((whole - rest).norm()))

    assert max(moved) <= objective.clipping.sensitivity * (1 + 1e-4)
    assert max(moved) > 0.3 * objective.clip  # the bound is not idle: clipping was at work


def test_taking_a_subject_out_changes_the_gradient_of_one_group_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = toy.space()
    rows = rows_of(toy.private(60, subjects=SUBJECTS), where)
    label = np.arange(rows.units) % 4
    objective = Grouped(toy.RANK, toy.TEXT, 1e9, where.anchors, 0.1, 4)

    def gradients(drawn: np.ndarray) -> list[torch.Tensor]:
        found = []
        for group in range(4):
            members = drawn[label[drawn] == group]
            monkeypatch.setattr(sampler, "labels", lambda c, g, members=members: label[members])
            found.append(objective.clipped_sum(torch.zeros(objective.size), rows, members))
        monkeypatch.setattr(sampler, "labels", lambda c, g: label[drawn])
        together = objective.clipped_sum(torch.zeros(objective.size), rows, drawn)
        assert torch.allclose(together, torch.stack(found).sum(0), rtol=1e-3, atol=1e-2)
        return found

    before, after = gradients(np.arange(rows.units)), gradients(without(rows, 5))

    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [False, True, False, False]


def test_a_unit_and_its_group_are_clipped_apart_and_unclipped_add_up_to_the_grouped_loss() -> None:
    where = toy.space()
    rows = rows_of(toy.private(60, subjects=SUBJECTS), where)

    def summed(clip: float, mixing: float | None) -> torch.Tensor:
        objective = Grouped(toy.RANK, toy.TEXT, clip, where.anchors, 0.1, 1, mixing=mixing)
        return objective.clipped_sum(torch.zeros(objective.size), rows, np.arange(rows.units))

    assert torch.allclose(summed(1e9, 1.0), summed(1e9, None), rtol=1e-3, atol=1e-2)
    alone = PerExample(toy.RANK, toy.TEXT, toy.CLIP, where.anchors, 0.1)
    own = alone.clipped_sum(torch.zeros(alone.size), rows, np.arange(rows.units))
    assert float((summed(toy.CLIP, 0.25) - own).norm()) == pytest.approx(0.25 * toy.CLIP, rel=1e-3)


def test_an_outlier_is_no_longer_than_any_other_input() -> None:
    where = toy.space()
    images, texts = toy.pairs(4, 3)
    rows = rows_of(collect(images * 1000, texts, None), where)
    assert float(rows.inputs.norm(dim=1).max()) <= where.radius * (1 + 1e-5)


def test_a_subject_with_many_images_counts_no_more_than_one_with_one() -> None:
    left, right = torch.randn(9, 5), torch.randn(9, 4)
    one_each = clipped_outer_sum(left, right, np.arange(9), 1e-3)
    together = clipped_outer_sum(left, right, np.zeros(9, np.int64), 1e-3)

    assert float(together.norm()) == pytest.approx(1e-3, rel=1e-4)
    assert float(one_each.norm()) > 1e-3


def test_ghost_norms_clip_as_materialised_gradients_do() -> None:
    left, right = torch.randn(12, 5), torch.randn(12, 4)
    piece = np.array([0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5])
    by_hand = torch.zeros(5, 4)
    for number in range(6):
        whole = left[piece == number].T @ right[piece == number]
        by_hand += whole * min(1.0, 2.0 / float(whole.norm()))

    summed = clipped_outer_sum(left, right, piece, 2.0).float()
    assert torch.allclose(summed, by_hand, atol=1e-5)
    # Many rows in a piece are summed before they are measured.
    whole = left.T @ right
    summed = clipped_outer_sum(left, right, np.zeros(12, np.int64), 2.0).float()
    assert torch.allclose(summed, whole * 2 / whole.norm(), atol=1e-5)


def test_rounding_lets_one_part_among_thousands_move_the_sum_by_no_more_than_the_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    left = 100 + torch.randn(5000, 6, generator=generator)
    right = 100 + torch.randn(5000, 6, generator=generator)
    piece = np.arange(5000)
    everyone = clipped_outer_sum(left, right, piece, 1.0)
    moved = [
        everyone - clipped_outer_sum(left[kept], right[kept], piece[kept], 1.0)
        for kept in (np.delete(piece, one) for one in range(0, 5000, 500))
    ]

    assert all(1 - 1e-5 < float(one.norm()) <= 1 for one in moved)


def test_the_per_example_loss_of_an_image_does_not_see_the_others() -> None:
    where = toy.space()
    rows = toy.rows(10)
    alone = per_example_loss(rows.start[:1], rows.targets[:1], where.anchors, 0.1)
    among = per_example_loss(rows.start, rows.targets, where.anchors, 0.1)

    assert torch.allclose(alone, among[:1], atol=1e-6)


def test_images_beyond_the_bound_are_left_out_and_no_other_subject_notices() -> None:
    images, texts = toy.pairs(12, 3)
    subjects = ["a"] * 10 + ["b"] * 2
    bounded = collect(images, texts, subjects, images_per_subject=4)
    alone = collect(images[10:], texts[10:], subjects[10:], images_per_subject=4)

    assert np.bincount(bounded.unit_of).tolist() == [4, 2]
    assert np.array_equal(bounded.images[bounded.unit_of == 1], alone.images)
    assert bounded.unit == "subject"


def test_without_subjects_the_unit_is_the_image_and_is_named_so() -> None:
    assert (toy.private(5).unit, toy.private(5).units) == ("image", 5)


def test_an_in_batch_contrastive_loss_is_refused_with_a_reason() -> None:
    with pytest.raises(ObjectiveRefused, match="does not separate per example"):
        in_batch_contrastive()


def test_batch_norm_in_a_trained_part_is_refused_with_the_way_out() -> None:
    with pytest.raises(ObjectiveRefused, match="GroupNorm or LayerNorm"):
        refuse_mixing_layers(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    refuse_mixing_layers(low_rank(3, 3, inner=2))


def test_an_empty_draw_gives_a_sum_of_zeros() -> None:
    where, nobody = toy.space(), np.array([], np.int64)
    for objective in toy.objectives(where):
        total = objective.clipped_sum(torch.zeros(objective.size), toy.rows(5), nobody)
        assert total.shape == (objective.size,)
        assert not total.any()


def test_a_poisson_draw_is_a_coin_for_each_unit() -> None:
    sizes = np.array([len(sampler.poisson(400, 0.3)) for _ in range(2000)])
    taken = np.bincount(np.concatenate([sampler.poisson(50, 0.3) for _ in range(2000)]))

    assert sizes.mean() == pytest.approx(120, abs=1.5)
    assert sizes.var() == pytest.approx(84, rel=0.2)  # a batch of fixed size has none
    assert abs(taken / 2000 - 0.3).max() < 0.06
    assert any(len(sampler.poisson(3, 0.1)) == 0 for _ in range(50))


def test_noise_has_the_asked_deviation_and_is_never_drawn_twice() -> None:
    first, second = sampler.gaussian(200_001, 3.0), sampler.gaussian(200_001, 3.0)

    assert float(first.std()) == pytest.approx(3.0, rel=0.02)
    assert abs(float((first**4).mean() / 81) - 3) < 0.15
    assert abs(float((first * second).mean())) < 0.1


def test_a_noisy_sum_keeps_no_bits_of_the_data_below_its_grid() -> None:
    """Where sum and noise nearly cancel, what is left would else be finer than the noise is."""
    total = torch.rand(20_000, dtype=torch.float64) - 0.5

    found = sampler.noisy(total, 1e-3, 1.5)

    assert float((found.double() - total).std()) == pytest.approx(1.5e-3, rel=0.05)
    steps = found.double() / sampler.GRID
    small = found.abs() < 2**-6  # where float32 could say more than the grid does
    assert small.any()
    assert torch.equal(steps[small], steps[small].round())
