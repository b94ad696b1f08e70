"""The space a head is trained in. All of it is fitted on public pairs, so none of it is charged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from workers.finetune.data import Floats, Public

BASE_PENALTY = 1000.0
"""Ridge penalty of the public head: chosen on photographs of Flickr8k that are public here."""
INNER = 128
SPREAD_FLOOR = 0.5
"""Added to each direction's variance before whitening: small ones are not blown up to noise."""


@dataclass(frozen=True)
class Projection:
    """The trained part of an encoder: an affine map of image features, a shift of text ones."""

    image_weight: torch.Tensor  # (d, t)
    image_bias: torch.Tensor  # (t,)
    text_bias: torch.Tensor  # (t,)

    def images(self, features: torch.Tensor) -> torch.Tensor:
        """features: (N, d). Returns (N, t), unit rows."""
        return functional.normalize(features @ self.image_weight + self.image_bias, dim=-1)

    def texts(self, features: torch.Tensor) -> torch.Tensor:
        """features: (N, t). Returns (N, t), unit rows."""
        return functional.normalize(features + self.text_bias, dim=-1)


@dataclass(frozen=True)
class Space:
    """A public head and the whitened directions in which a private correction to it is learnt."""

    image_mean: torch.Tensor  # (d,)
    text_mean: torch.Tensor  # (t,)
    base: torch.Tensor  # (d, t): the public head
    whiten: torch.Tensor  # (d, rank)
    radius: float  # inputs are clipped to this length; a public median
    anchors: torch.Tensor  # (anchors, t), unit rows: frozen, public texts to be told apart from
    basis: torch.Tensor | None = None  # (inner, t), orthonormal rows: see `fit_space`

    @property
    def rank(self) -> int:
        return self.whiten.shape[1]

    @property
    def dimensions(self) -> int:
        return self.base.shape[1]

    def inputs(self, images: Floats) -> torch.Tensor:
        """images: (N, d). Returns (N, rank), whitened, none longer than `radius`."""
        rows = (torch.from_numpy(images) - self.image_mean) @ self.whiten
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        bounded: torch.Tensor = rows * (self.radius / length.clamp_min(1e-12)).clamp(max=1)
        return bounded

    def start(self, images: Floats) -> torch.Tensor:
        """images: (N, d). Returns (N, t): what the public head says."""
        return (torch.from_numpy(images) - self.image_mean) @ self.base

    def targets(self, texts: Floats) -> torch.Tensor:
        """texts: (N, t). Returns (N, t), unit rows, the public mean taken out."""
        return functional.normalize(torch.from_numpy(texts) - self.text_mean, dim=-1)

    def projection(self, correction: torch.Tensor) -> Projection:
        """The encoder's trained part: `correction` (rank, t) folded into the public head.

        The clip of `inputs` is left out: at search time there is nothing to protect from.
        """
        weight = self.base + self.whiten @ correction
        return Projection(weight, -self.image_mean @ weight, -self.text_mean)


def fit_space(public: Public, *, rank: int, inner: int = INNER, anchors: int = 512) -> Space:
    """Means, ridge head, principal directions and anchors, from public pairs only.

    rank: at most min(d, public pairs); inner: at most t. Few directions carry most of what can
    be learnt, and the noise that privacy costs grows with every one of them. So a correction is
    whiten Δ basis with only Δ trained: a LoRA whose outer factors are frozen (FFA-LoRA, Sun et
    al. 2024, arXiv 2403.12313: noise on both factors at once would be multiplied).
    """
    images, texts = torch.from_numpy(public.images), torch.from_numpy(public.texts)
    image_mean, text_mean = images.mean(0), texts.mean(0)
    x = images - image_mean
    y = functional.normalize(texts - text_mean, dim=-1)
    moment = x.T @ x
    base = torch.linalg.solve(moment + BASE_PENALTY * torch.eye(x.shape[1]), x.T @ y)
    variance, directions = torch.linalg.eigh(moment / len(x))
    variance, directions = variance.flip(0)[:rank], directions.flip(1)[:, :rank]
    whiten = directions / (variance.clamp_min(0) + SPREAD_FLOOR).sqrt()
    radius = float((x @ whiten).norm(dim=1).median())
    basis = torch.linalg.eigh(y.T @ y)[1].flip(1)[:, :inner].T.contiguous()
    return Space(image_mean, text_mean, base, whiten, radius, y[:anchors].clone(), basis)
