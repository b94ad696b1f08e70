"""The trained part of the embedded encoder: both towers' features into one space.

An embedding is a concatenation, so its dot product is a weighted mean of cosines, of
- several small heads, trained apart but for their batches;
- what the image classifiers name, in the words of the text tower: a picture is the mean of its
  classes' names, weighted by probability (ConSE, Norouzi et al. 2014, arXiv 1312.5650). It knows
  a thousand things that the photographs the heads learned from may not show;
- one number that takes off what an image owes to being near every query (`JointSpace.images`).
"""

from __future__ import annotations

import math

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from retrieval.errors import ModelRefused

IMAGE_WIDTH = 2560  # Lite0 and Lite2, 1280 each
TEXT_WIDTH = 384
CLASSES = 1000  # that the image towers tell apart
PLACES = 9  # the 3×3 grid an image is pooled to
HEADS = 3
HEAD_DIMENSIONS = 192
GAZES = 2  # attention-weighted means per head, beside the plain one
TEXT_HIDDEN = 256
QUERIES = 2048
DIMENSIONS = HEADS * HEAD_DIMENSIONS + TEXT_WIDTH + 1
# Chosen on val; recall is flat around each.
NAMES_SHARE = 0.2
HUB_SHARPNESS = 20.0
HUB_WEIGHT = 0.52
HUB_SHARE = 0.5  # the last coordinate of every text vector


class ImageHead(nn.Module):
    """Looks at the grid in a few learned ways and projects what it saw."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.gaze = nn.Linear(IMAGE_WIDTH, GAZES)
        self.place = nn.Parameter(torch.zeros(PLACES, GAZES))
        self.project = nn.Linear(IMAGE_WIDTH * (GAZES + 1), HEAD_DIMENSIONS)
        self.dropout = nn.Dropout(dropout)
        _begin(self.gaze)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """grid: (N, PLACES, IMAGE_WIDTH), standardised. Returns unit (N, HEAD_DIMENSIONS)."""
        weights = (self.gaze(grid) + self.place).softmax(1)
        seen = torch.einsum("npg,npw->ngw", weights, grid).flatten(1)
        everything = self.dropout(torch.cat([seen, grid.mean(1)], 1))
        return functional.normalize(self.project(everything), dim=-1)


class TextHead(nn.Module):
    """Reads the token states in a few learned ways and projects what it read."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        width = TEXT_WIDTH * (GAZES + 1)
        self.gaze = nn.Linear(TEXT_WIDTH, GAZES)
        self.project = nn.Linear(width, HEAD_DIMENSIONS)
        self.widen = nn.Linear(width, TEXT_HIDDEN)
        self.narrow = nn.Linear(TEXT_HIDDEN, HEAD_DIMENSIONS)
        self.dropout = nn.Dropout(dropout)
        _begin(self.gaze)

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor, sentence: torch.Tensor
    ) -> torch.Tensor:
        """states: (N, T, TEXT_WIDTH); mask: (N, T) bool; sentence: (N, TEXT_WIDTH), standardised.

        Returns unit (N, HEAD_DIMENSIONS).
        """
        weights = self.gaze(states).masked_fill(~mask[:, :, None], -1e4).softmax(1)
        read = torch.einsum("ntg,ntw->ngw", weights, states).flatten(1)
        everything = self.dropout(torch.cat([read, sentence], 1))
        bent = self.narrow(self.dropout(functional.gelu(self.widen(everything))))
        return functional.normalize(self.project(everything) + bent, dim=-1)


class JointSpace(nn.Module):
    """All heads, what standardises their input, and the queries that measure hubness."""

    image_mean: torch.Tensor
    image_scale: torch.Tensor
    states_scale: torch.Tensor
    sentence_mean: torch.Tensor
    sentence_scale: torch.Tensor
    class_names: torch.Tensor
    queries: torch.Tensor
    hub_range: torch.Tensor

    def __init__(self, image_dropout: float = 0.0, text_dropout: float = 0.0) -> None:
        super().__init__()
        self.image_heads = nn.ModuleList(ImageHead(image_dropout) for _ in range(HEADS))
        self.text_heads = nn.ModuleList(TextHead(text_dropout) for _ in range(HEADS))
        self.register_buffer("image_mean", torch.zeros(IMAGE_WIDTH))
        self.register_buffer("image_scale", torch.ones(IMAGE_WIDTH))
        self.register_buffer("states_scale", torch.ones(()))
        self.register_buffer("sentence_mean", torch.zeros(TEXT_WIDTH))
        self.register_buffer("sentence_scale", torch.ones(()))
        self.register_buffer("class_names", torch.zeros(CLASSES, TEXT_WIDTH))
        self.register_buffer("queries", torch.zeros(QUERIES, HEADS * HEAD_DIMENSIONS))
        self.register_buffer("hub_range", torch.zeros(3))  # low, mean, high over training images

    def look(self, grid: torch.Tensor) -> torch.Tensor:
        """grid: (N, PLACES, IMAGE_WIDTH). Returns (HEADS, N, HEAD_DIMENSIONS), unit rows."""
        grid = ((grid - self.image_mean) / self.image_scale).clamp(-4, 4)
        return torch.stack([head(grid) for head in self.image_heads])

    def read(
        self, states: torch.Tensor, mask: torch.Tensor, sentence: torch.Tensor
    ) -> torch.Tensor:
        """states: (N, T, TEXT_WIDTH); mask: (N, T) bool; sentence: (N, TEXT_WIDTH), their mean.

        Returns (HEADS, N, HEAD_DIMENSIONS), unit rows.
        """
        states = states / self.states_scale
        sentence = (sentence - self.sentence_mean) / self.sentence_scale
        return torch.stack([head(states, mask, sentence) for head in self.text_heads])

    def hubness(self, joined: torch.Tensor) -> torch.Tensor:
        """Return (N,) how near each joined image vector is to queries in general.

        A soft maximum of its cosines to captions of training photographs: the query bank of
        QB-Norm (Bogolin et al. 2022, arXiv 2112.12777), section 3.
        """
        cosines = joined @ self.queries.T
        soft_maximum = (cosines * HUB_SHARPNESS).logsumexp(1) - math.log(QUERIES)
        return soft_maximum / HUB_SHARPNESS

    def images(
        self, grid: torch.Tensor, mirrored: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        """grid, mirrored: (N, PLACES, IMAGE_WIDTH) of an image and its mirror image.

        classes: (N, CLASSES), their mean probabilities. Returns (N, DIMENSIONS), unit rows.

        The last coordinate lowers the score, against any text vector, of an image that is near
        every query, by HUB_WEIGHT times its excess over the mean hubness. The excess is held to
        the range of training photographs: on an X-ray or a blank page the measure says nothing,
        and without the limit such an image would win.
        """
        joined = join(self.look(grid) + self.look(mirrored))
        low, mean, high = self.hub_range
        excess = self.hubness(joined).clamp(low, high) - mean
        last = -HUB_WEIGHT * excess[:, None] * math.sqrt(1 - HUB_SHARE**2) / HUB_SHARE
        return concatenate(joined, classes @ self.class_names, last)

    def texts(
        self, states: torch.Tensor, mask: torch.Tensor, sentence: torch.Tensor
    ) -> torch.Tensor:
        """Arguments as `read`. Returns (N, DIMENSIONS), unit rows."""
        joined = join(self.read(states, mask, sentence))
        last = torch.full_like(joined[:, :1], HUB_SHARE)
        return concatenate(joined, sentence - self.sentence_mean, last)

    def to_bytes(self) -> bytes:
        """Return a safetensors file of float16 tensors."""
        return safetensors.torch.save(
            {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        )


def _begin(gaze: nn.Linear) -> None:
    # On the meta device nothing is filled, and trying imports torch's compiler: that takes seconds.
    if not gaze.weight.is_meta:
        nn.init.normal_(gaze.weight, std=0.02)


def from_bytes(content: bytes) -> JointSpace:
    """Read what `to_bytes` wrote. Raises ModelRefused if the tensors are other ones."""
    with torch.device("meta"):
        space = JointSpace()
    try:
        tensors = safetensors.torch.load(content)
        space.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    except (safetensors.SafetensorError, RuntimeError) as exc:
        raise ModelRefused("the projection file does not hold this projection") from exc
    return space.eval().requires_grad_(False)


def join(heads: torch.Tensor) -> torch.Tensor:
    """(HEADS, N, HEAD_DIMENSIONS), any lengths. Returns unit (N, HEADS × HEAD_DIMENSIONS)."""
    each = functional.normalize(heads, dim=-1) / math.sqrt(len(heads))
    return each.transpose(0, 1).flatten(1)


def concatenate(joined: torch.Tensor, named: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Put the three parts into one unit vector.

    joined: unit (N, HEADS × HEAD_DIMENSIONS); named: (N, TEXT_WIDTH), any length; last: (N, 1).
    """
    named = functional.normalize(named, dim=-1)
    parts = [joined * math.sqrt(1 - NAMES_SHARE), named * math.sqrt(NAMES_SHARE)]
    return torch.cat([torch.cat(parts, 1) * torch.sqrt(1 - last**2), last], 1)
