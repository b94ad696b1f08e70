"""Clipped sums of gradients of any module whose trained parts are matrices, on any device.

No gradient is held per image: its norm follows from two small Gram matrices per layer (ghost norms:
Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, arXiv 2110.05679), and the clipped sum from the
same tensors (book-keeping: Bu et al. 2023, arXiv 2210.00038), so that there is one pass backwards.

On a GPU the module runs in bfloat16 where autocast finds it safe. Norm and sum are both taken in
float32 of the very tensors that the pass left behind: rounding there makes another gradient, of
which still no unit's part is longer than the clip. Two passes that round apart would not hold that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from retrieval.errors import ObjectiveRefused
from workers.finetune.objective import ROUNDING, Drawn, blocks

Losses = Callable[[torch.Tensor], torch.Tensor]
"""What the module gives for n rows → (n,) losses, each of its own row only."""


def trained_layers(module: nn.Module) -> list[nn.Linear]:
    """The layers whose weights are trained, in the order of the module's parameters.

    Raises ObjectiveRefused where something else is trained: its norm would be left out.
    """
    layers = [
        part
        for part in module.modules()
        if isinstance(part, nn.Linear) and part.weight.requires_grad
    ]
    trained = [part for part in module.parameters() if part.requires_grad]
    if {id(part) for part in trained} != {id(layer.weight) for layer in layers}:
        raise ObjectiveRefused(
            "ghost clipping trains matrices without bias, each in a layer of its own; freeze the"
            " rest, or take the gradients of each image by Opacus' hooks"
        )
    return sorted(layers, key=lambda layer: [id(part) for part in trained].index(id(layer.weight)))


def clipped_sum(
    module: nn.Module, losses: Losses, inputs: torch.Tensor, piece: Drawn, clip: float
) -> torch.Tensor:
    """Minus the sum over pieces of their gradients, each clipped; all layers in one vector.

    inputs: (n, …), where the module is; piece: (n,), which rows are clipped together. Returns
    (size,) float32 on the CPU.
    """
    layers = trained_layers(module)
    left, output = _watched(module, layers, inputs)
    outputs = [layer_output for _, layer_output in left]
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.is_cuda):
        total = losses(output).float().sum()
    right = torch.autograd.grad(total, outputs)
    pairs = [
        (_as_rows(before.detach()), _as_rows(gradient))
        for (before, _), gradient in zip(left, right, strict=True)
    ]
    scale = torch.ones(len(inputs), device=inputs.device)
    for block in blocks(piece):
        rows = block.to(inputs.device)
        length = torch.stack([_square(a[rows], b[rows]) for a, b in pairs]).sum(0).sqrt()
        factor = (1 - ROUNDING) * clip / length.clamp_min(1e-12)
        scale[rows] = factor.clamp(max=1)[:, None].expand_as(rows)
    summed = [-(b * scale[:, None, None]).flatten(0, 1).mT @ a.flatten(0, 1) for a, b in pairs]
    return torch.cat([part.flatten() for part in summed]).cpu()


def _watched(
    module: nn.Module, layers: Sequence[nn.Linear], inputs: torch.Tensor
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """What went into each layer and came out of it, and the module's output."""
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if id(layer) in seen:
            raise ObjectiveRefused("a trained layer is used twice: its gradients would be two")
        seen[id(layer)] = (given[0], output)

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.is_cuda):
            output = module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[id(layer)] for layer in layers], output


def _as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """(n, …, d) → (n, places, d) float32."""
    return tensor.float().reshape(len(tensor), -1, tensor.shape[-1])


def _square(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(pieces,): |Σ l ⊗ r|² over a piece's rows and places. left: (pieces, size, places, d)."""
    a, b = left.flatten(1, 2), right.flatten(1, 2)
    return ((a @ a.mT) * (b @ b.mT)).sum((1, 2)).clamp_min(0)
