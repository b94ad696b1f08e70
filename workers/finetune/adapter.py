"""Per-example training of any linear module: ghost clipping, or gradients from Opacus' hooks.

Slower than the closed form of `PerExample`, which it equals for one plain matrix (a test), and
for adapters that are no single matrix: LoRA with both factors trained. It is also where someone
else's module and loss come in, so both are probed before a private row is seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from opacus import GradSampleModule
from torch import nn
from torch.nn import utils

from workers.finetune import ghost
from workers.finetune.heads import Rows, refuse_mixing_layers
from workers.finetune.objective import (
    ROUNDING,
    Clipping,
    Drawn,
    in_batch_contrastive,
    per_example_loss,
)

UNITS_AT_ONCE = 64
PROBES = 4

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(outputs (n, t), targets (n, t), anchors, temperature) → (n,), one loss per row."""


@dataclass(frozen=True)
class Adapter:
    """A unit's gradient by all trained parameters is the sum over its images, clipped.

    module: (n, rank) → (n, t), linear, as it starts. Raises ObjectiveRefused for one with
    BatchNorm, and for a loss in which a row's value depends on its neighbours.
    """

    module: nn.Module
    clip: float
    anchors: torch.Tensor  # (A, t)
    temperature: float
    loss: Loss = per_example_loss
    ghost: bool = True  # False: each image's gradient is held, by Opacus' hooks
    device: str = "cpu"
    name: str = "adapter"

    def __post_init__(self) -> None:
        refuse_mixing_layers(self.module)
        refuse_mixing_loss(self.loss, self.anchors, self.temperature)
        if self.ghost:
            ghost.trained_layers(self.module)

    @property
    def clipping(self) -> Clipping:
        """One unit is one term of the sum, clipped."""
        return Clipping(self.clip)

    @property
    def size(self) -> int:
        return sum(part.numel() for part in self.module.parameters() if part.requires_grad)

    def clipped_sum(self, weights: torch.Tensor, rows: Rows, drawn: Drawn) -> torch.Tensor:
        total = torch.zeros(self.size, dtype=torch.float64)
        for units in np.array_split(drawn, math.ceil(len(drawn) / UNITS_AT_ONCE) or 1):
            chosen = rows.of_units(units)
            if not len(chosen):
                continue
            if self.ghost:
                total += self._ghost_sum(weights, rows, chosen)
                continue
            descent = self._descents(weights, rows, chosen)
            place = torch.from_numpy(np.searchsorted(units, rows.unit_of[chosen]))
            of_unit = torch.zeros(len(units), self.size, dtype=torch.float64)
            of_unit.index_add_(0, place, descent.double())
            length = of_unit.norm(dim=1).clamp_min(1e-12)
            total += ((1 - ROUNDING) * self.clip / length).clamp(max=1) @ of_unit
        return total

    def _ghost_sum(self, weights: torch.Tensor, rows: Rows, chosen: Drawn) -> torch.Tensor:
        start, targets, anchors = (
            part.to(self.device)
            for part in (rows.start[chosen], rows.targets[chosen], self.anchors)
        )

        def losses(output: torch.Tensor) -> torch.Tensor:
            return self.loss(start + output, targets, anchors, self.temperature)

        module = self._at(weights).to(self.device)
        inputs = rows.inputs[chosen].to(self.device)
        return ghost.clipped_sum(module, losses, inputs, rows.unit_of[chosen], self.clip)

    def correction(self, weights: torch.Tensor) -> torch.Tensor:
        module = self._at(weights)
        rank = next(iter(module.parameters())).shape[1]
        with torch.no_grad():
            found: torch.Tensor = module(torch.eye(rank))
        return found

    def alignment(self, trace: torch.Tensor, rows: Rows) -> torch.Tensor:
        first = self._first(rows).double()
        found: torch.Tensor = first @ trace.double() / first.norm(dim=1).clamp_min(1e-12)
        return found

    def lengths(self, rows: Rows) -> torch.Tensor:
        found: torch.Tensor = torch.linalg.vector_norm(self._first(rows), dim=1)
        return found

    def _first(self, rows: Rows) -> torch.Tensor:
        return self._descents(torch.zeros(self.size), rows, np.arange(len(rows.unit_of)))

    def _at(self, weights: torch.Tensor) -> nn.Module:
        """A copy of the module, `weights` away from its start."""
        module = copy.deepcopy(self.module)
        trained = [part for part in module.parameters() if part.requires_grad]
        utils.vector_to_parameters(utils.parameters_to_vector(trained) + weights, trained)
        return module

    def _descents(self, weights: torch.Tensor, rows: Rows, chosen: Drawn) -> torch.Tensor:
        """(n, size): minus each row's own gradient, all parameters in one vector."""
        hooked = GradSampleModule(self._at(weights), loss_reduction="sum")
        output = rows.start[chosen] + hooked(rows.inputs[chosen])
        losses = self.loss(output, rows.targets[chosen], self.anchors, self.temperature)
        torch.autograd.backward(losses.sum())
        trained = [part for part in hooked.parameters() if part.requires_grad]
        return -torch.cat([part.grad_sample.flatten(1) for part in trained], 1)


def refuse_mixing_loss(loss: Loss, anchors: torch.Tensor, temperature: float) -> None:
    """Raise ObjectiveRefused where made-up rows have other losses together than alone."""
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(2, PROBES, anchors.shape[1], generator=generator)
    together = loss(output, target, anchors, temperature)
    if together.shape != (PROBES,):
        in_batch_contrastive()
    for row in range(PROBES):
        alone = loss(output[[row]], target[[row]], anchors, temperature)
        if not torch.allclose(alone[0], together[row], rtol=1e-4, atol=1e-5):
            in_batch_contrastive()
