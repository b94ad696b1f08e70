"""Adapters inside an image tower, and what a private step on them costs with and without ghosts.

No appliance trains these: heads on frozen features learn as much at the same ε for a thousandth of
the work (docs/benchmarks.md). It is here to be measured on the device at hand.
"""

from __future__ import annotations

import ctypes
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from opacus import GradSampleModule
from torch import nn
from torch.nn import functional

from workers.finetune import ghost

RANK = 8
CLIP = 1.0
STEPS = {"cuda": 5, "cpu": 2}  # the fastest counts: the first one warms up
BATCHES = {"ViT-B-32": 8, "ViT-L-14": 2}
GPU_BATCHES = {"ViT-B-32": 256, "ViT-L-14": 64}


class Adapted(nn.Module):
    """A frozen matrix and a low-rank correction to it (LoRA, Hu et al. 2022, section 4.1)."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        corrected: torch.Tensor = self.frozen(rows) + self.up(self.down(rows))
        return corrected


@dataclass(frozen=True)
class Cost:
    """Of one way to clip. peak_mib: what a step holds beyond the tower; None where the system
    does not tell."""

    tower: str
    clipping: str
    device: str
    precision: str
    batch: int
    images_per_s: float
    peak_mib: int | None


def adapt(tower: nn.Module, rank: int) -> nn.Module:
    """Freeze a tower, and give each matrix of its MLPs an adapter, the only trained parts."""
    for part in tower.parameters():
        part.requires_grad_(False)
    found = [
        (parent, name)
        for parent in tower.modules()
        if not isinstance(parent, Adapted)
        for name, child in parent.named_children()
        # Attention reads its matrices' weights itself: what is put in their place is not called.
        if isinstance(child, nn.Linear) and not isinstance(parent, nn.MultiheadAttention)
    ]
    for parent, name in found:
        setattr(parent, name, Adapted(getattr(parent, name), rank))
    return tower


def costs(name: str, *, at_most: int | None = None) -> list[Cost]:
    """Both ways on random pictures and weights: what they cost does not depend on either.

    Ghost clipping runs in bfloat16 on a GPU, and so do the hooks beside it.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    tower = adapt(open_clip.create_model(name, pretrained=None).visual, RANK).to(device)
    batch = (GPU_BATCHES if on_gpu else BATCHES)[name]
    batch = min(batch, at_most or batch)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, generator=generator).to(device)
    targets = functional.normalize(torch.randn(batch, tower(images[:1]).shape[1]), dim=1)
    precision = "bfloat16" if on_gpu else "float32"
    found = []
    for clipping in ("ghost", "per image"):
        seconds, peak = _measured(tower, images, targets.to(device), ghosts=clipping == "ghost")
        cost = Cost(name, clipping, device_name(), precision, batch, batch / seconds, peak)
        found.append(cost)
    return found


def device_name() -> str:
    """What was measured on: a number without it says nothing."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    told = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    model = told[1] if told else platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def _measured(
    tower: nn.Module, images: torch.Tensor, targets: torch.Tensor, *, ghosts: bool
) -> tuple[float, int | None]:
    """Seconds of the fastest step, and MiB at the peak of all."""

    def losses(output: torch.Tensor) -> torch.Tensor:
        return -functional.cosine_similarity(output, targets)

    held = _begin_peak(on_gpu=images.is_cuda)
    seconds = []
    for _ in range(STEPS[images.device.type]):
        begun = time.perf_counter()
        if ghosts:
            ghost.clipped_sum(tower, losses, images, np.arange(len(images)), CLIP)
        else:
            clipped_by_hooks(tower, losses, images)
        seconds.append(time.perf_counter() - begun)
    peak = _peak(on_gpu=images.is_cuda)
    return min(seconds), None if peak is None or held is None else (peak - held) // 2**20


def _begin_peak(*, on_gpu: bool) -> int | None:
    """Forget earlier peaks. Returns the bytes held now."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        # What the way before has freed goes back first, or the next one would seem to need nothing.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    except (OSError, AttributeError):
        return None
    return _peak(on_gpu=False)


def _peak(*, on_gpu: bool) -> int | None:
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    told = re.search(r"VmHWM:\s*(\d+) kB", _read("/proc/self/status"))
    return int(told[1]) * 1024 if told else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def clipped_by_hooks(tower: nn.Module, losses: ghost.Losses, images: torch.Tensor) -> torch.Tensor:
    """The same sum with each image's gradient held, by Opacus' hooks."""
    hooked = GradSampleModule(tower.train(), loss_reduction="sum")  # no hooks in eval mode
    try:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            total = losses(hooked(images)).float().sum()
        torch.autograd.backward(total)
        trained = [part for part in tower.parameters() if part.requires_grad]
        each = torch.cat([vars(part)["grad_sample"].flatten(1) for part in trained], 1)
        scale = (CLIP / each.norm(dim=1).clamp_min(1e-12)).clamp(max=1)
        found: torch.Tensor = -(scale @ each).cpu()
        return found
    finally:
        hooked.zero_grad()
        hooked.remove_hooks()
        for part in tower.parameters():
            part.grad = None
