"""What every network of images shares: bytes in, unit rows out, on whatever device there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from workers.encode.device import busy_when_out_of_memory
from workers.encode.encoder import Vectors


class Normalised(nn.Module):
    """A network behind the mean and scale its pixels are told in.

    Pixels travel as bytes and become numbers on the device: a quarter of the way from the
    loaders' memory to it, and nothing that a loader has to compute.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], scale: Sequence[float]) -> None:
        """mean, scale: of the three channels, for pixels between 0 and 1."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(mean).float().view(3, 1, 1))
        self.register_buffer("scale", 255 * torch.tensor(scale).float().view(3, 1, 1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """batch: (N, 3, S, S) uint8. Returns (N, dimensions), of any length."""
        return self.network((batch.float() - self.mean) / self.scale)  # type: ignore[no-any-return]


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Return it on the device, ready to be asked and not to be trained.

    Channels last: convolutions of bytes that came as rows of pixels need no transposition then.
    """
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def unit_rows(
    network: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, device: torch.device
) -> Vectors:
    """Run one batch. Returns (N, dimensions) float32 with unit L2 rows; raises DeviceBusy.

    From pinned memory the batch is copied while an earlier one is still computed.
    """
    with busy_when_out_of_memory():
        rows = network(batch.to(device, non_blocking=True)).float()
        found: Vectors = functional.normalize(rows, dim=-1).cpu().numpy()
        return found
