"""Adapters inside a tower: a small one of the same kind as those that are measured."""

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from torch.nn import functional

from workers.finetune import ghost, tower


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    made = tower.adapt(VisionTransformer(32, 16, 24, 2, 2, 4.0, output_dim=8), 2)
    with torch.no_grad():
        for part in made.parameters():
            if part.requires_grad:
                part.normal_(std=0.3)
    return made


def test_ghost_clipping_inside_a_tower_sums_what_opacus_hooks_do() -> None:
    made, images, targets = small(), torch.randn(5, 3, 32, 32), torch.randn(5, 8)

    def losses(output: torch.Tensor) -> torch.Tensor:
        return -functional.cosine_similarity(output, targets)

    ours = ghost.clipped_sum(made, losses, images, np.arange(5), tower.CLIP)

    assert float(ours.norm()) > 0.1
    assert torch.allclose(ours, tower.clipped_by_hooks(made, losses, images), atol=1e-4)
    # The hooks are gone: the next step has the same outcome.
    again = ghost.clipped_sum(made, losses, images, np.arange(5), tower.CLIP)
    assert torch.allclose(ours, again, atol=1e-6)


def test_only_adapters_are_trained_and_they_start_as_no_change() -> None:
    plain = VisionTransformer(32, 16, 24, 2, 2, 4.0, output_dim=8).eval()
    images = torch.randn(2, 3, 32, 32)
    before = plain(images)

    adapted = tower.adapt(plain, 2)

    assert torch.allclose(adapted(images), before, atol=1e-6)
    trained = [name for name, part in adapted.named_parameters() if part.requires_grad]
    assert len(trained) == 8
    assert all(name.endswith(("down.weight", "up.weight")) for name in trained)
