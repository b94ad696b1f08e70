"""The encoder of reports: MiniLM's sentence embedding as it was published, for texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from retrieval.errors import NoImageTower
from workers.encode import minilm
from workers.encode.device import best_device, busy_when_out_of_memory
from workers.encode.encoder import Pixels, Vectors
from workers.encode.registry import REPORTS
from workers.encode.towers import TextTower

ENCODED_TOGETHER = 16
MARKS = 2  # tokens around every text
MOST_TOKENS = minilm.MAX_TOKENS - MARKS


class ReportEncoder:
    """all-MiniLM-L6-v2: English sentences that mean the same lie near each other."""

    name = REPORTS
    dimensions = minilm.WIDTH
    side = 0
    digest = TextTower.digest
    licence = "Apache-2.0"

    def __init__(self, device: torch.device | None = None) -> None:
        """Load all weights. Raises ModelRefused if one is missing or altered."""
        self._tower = TextTower(device or best_device())

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Raises NoImageTower."""
        raise NoImageTower("the encoder of reports reads no pictures")

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """Raises NoImageTower."""
        raise NoImageTower("the encoder of reports reads no pictures")

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """See Encoder; cut at 128 tokens."""
        rows = [np.zeros((0, self.dimensions), np.float32)]
        for start in range(0, len(texts), ENCODED_TOGETHER):
            with busy_when_out_of_memory():
                states = self._tower.states(texts[start : start + ENCODED_TOGETHER])
                rows.append(states[-1].cpu().numpy())
        return np.concatenate(rows)


_tokenizer = cache(minilm.load_tokenizer)


def passages(text: str) -> list[str]:
    """`text`, one sentence a line, as few pieces as MiniLM reads whole each.

    A piece ends between sentences, and within one only where that is too long by itself.
    """
    tokenizer = _tokenizer()
    found, tokens = list[list[str]](), 0
    for line in text.splitlines():
        words = line.split()
        _, mask = tokenizer(words)
        # Each word by itself has a mark on either side; a sentence ends with a full stop.
        lengths = [int(length) - MARKS for length in mask.sum(1)]
        if not found or tokens + sum(lengths) + 1 > MOST_TOKENS:
            found.append([])
            tokens = 0
        for word, length in zip(words, lengths, strict=True):
            if tokens + length + 1 > MOST_TOKENS:
                found.append([])
                tokens = 0
            found[-1].append(word)
            tokens += length
        found[-1][-1] += "."
        tokens += 1
    return [" ".join(piece) for piece in found]
