"""What is trained, and what must not be: every number is a correction to the public head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from retrieval.errors import ObjectiveRefused
from workers.finetune.data import Private
from workers.finetune.features import Space


@dataclass(frozen=True)
class Rows:
    """The private rows as a head sees them; `unit_of` as in `Private`."""

    inputs: torch.Tensor  # (N, rank)
    start: torch.Tensor  # (N, t): the public head's answer, not of unit length
    targets: torch.Tensor  # (N, t), unit rows
    unit_of: NDArray[np.int64]
    units: int

    def of_units(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows whose unit is among `drawn`."""
        chosen = np.zeros(self.units, bool)
        chosen[drawn] = True
        return np.flatnonzero(chosen[self.unit_of])

    def joined(self, more: Rows) -> Rows:
        """Both together; the units of `more` are new ones."""
        return replace(
            self,
            inputs=torch.cat([self.inputs, more.inputs]),
            start=torch.cat([self.start, more.start]),
            targets=torch.cat([self.targets, more.targets]),
            unit_of=np.concatenate([self.unit_of, more.unit_of + self.units]),
            units=self.units + more.units,
        )


def rows_of(private: Private, space: Space) -> Rows:
    """The collection in the public space: nothing here is fitted on it."""
    return Rows(
        space.inputs(private.images),
        space.start(private.images),
        space.targets(private.texts),
        private.unit_of,
        private.units,
    )


def low_rank(rank: int, dimensions: int, *, inner: int) -> nn.Module:
    """A LoRA correction (Hu et al. 2022): rank → inner → dimensions; starts as no correction.

    The first factor starts with the leading `inner` of the whitened directions, in order: the
    same in every run, so that a resumed one goes on from where it started.
    """
    down, up = nn.Linear(rank, inner, bias=False), nn.Linear(inner, dimensions, bias=False)
    nn.init.eye_(down.weight)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up)


def refuse_mixing_layers(module: nn.Module) -> None:
    """Raise ObjectiveRefused for a trained part in which one unit's rows touch another's.

    Batch statistics do: the gradient "of one image" then holds all images of its batch, and
    clipping it bounds nobody's share.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ObjectiveRefused(
                f"{name or 'the head'} is a BatchNorm, which mixes the images of a batch; "
                "use GroupNorm or LayerNorm, or freeze it in eval mode outside the trained part"
            )
