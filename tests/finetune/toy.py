"""A small collection with something to learn, and the numbers a quick run needs."""

from functools import cache

import numpy as np
import torch

from retrieval.budget import Mechanism
from workers.finetune.adapter import Adapter
from workers.finetune.data import Private, Public, collect
from workers.finetune.features import Space, fit_space
from workers.finetune.heads import Rows, low_rank, rows_of
from workers.finetune.objective import Grouped, LeastSquares, Objective, PerExample

RANK, TEXT, IMAGE = 64, 48, 80
CLIP = 1.0
BASIS = torch.linalg.qr(torch.randn(TEXT, 16, generator=torch.Generator().manual_seed(0)))[0].T


def pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and texts from one law: the same map for every seed."""
    law = np.random.default_rng(0).normal(size=(IMAGE, TEXT))
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(count, IMAGE)).astype(np.float32)
    texts = images @ law + 2 * generator.normal(size=(count, TEXT))
    return images, texts.astype(np.float32)


@cache
def space() -> Space:
    return fit_space(Public(*pairs(200, 1)), rank=RANK, anchors=32)


def private(count: int = 300, *, subjects: list[str] | None = None) -> Private:
    images, texts = pairs(count, 2)
    return collect(images, texts, subjects)


def rows(count: int = 300, *, subjects: list[str] | None = None) -> Rows:
    return rows_of(private(count, subjects=subjects), space())


def objectives(where: Space, *, groups: int = 20) -> list[Objective]:
    return [
        LeastSquares(RANK, TEXT, CLIP),
        LeastSquares(RANK, TEXT, CLIP, moment_weight=0.5),
        PerExample(RANK, TEXT, CLIP, where.anchors, 0.1),
        PerExample(RANK, len(BASIS), CLIP, where.anchors, 0.1, BASIS),
        Adapter(low_rank(RANK, TEXT, inner=8), CLIP, where.anchors, 0.1),
        Adapter(low_rank(RANK, TEXT, inner=8), CLIP, where.anchors, 0.1, ghost=False),
        Grouped(RANK, TEXT, CLIP, where.anchors, 0.1, groups),
        Grouped(RANK, TEXT, CLIP, where.anchors, 0.1, groups, mixing=None),
    ]


STEPS = Mechanism(noise_multiplier=16.0, sample_rate=0.5, steps=36)
