"""Train the embedded encoder's projection on Flickr8k and write it as safetensors.

    python -m workers.encode.train_projection --data DIR --seed S --out FILE [--cache DIR]

Both towers stay as published; only the heads of `joint_space` learn. Measured on the 1,000
photographs of `val`, on which the recipe was chosen; the kept-back test photographs are not read.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.imagenet_info import ImageNetInfo
from torch.nn import functional

from workers.encode import flickr8k, joint_space
from workers.encode.flickr8k import Split
from workers.encode.joint_space import JointSpace
from workers.encode.towers import ImageTower, TextTower

DEFAULT_DATA = "../shared/data"
EPOCHS = 30
BATCH = 1000  # photographs; the larger, the harder the negatives
CAPTIONS = 2  # per photograph and step
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.3
IMAGE_DROPOUT = 0.5
TEXT_DROPOUT = 0.4
TOKEN_DROPOUT = 0.1
FIRST_SCALE = 20.0  # of the logits: one over the temperature, learned from here
SOFT_SHARE = 0.3  # of the target that goes to other photographs with similar captions
SOFT_TEMPERATURE = 0.05
AVERAGED_STEPS = 20

Rows = NDArray[np.int64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, report and write. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.encode.train_projection")
    data = Path(os.environ.get("CLOISTER_DATA", DEFAULT_DATA))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "flickr8k")
    options = parser.parse_args(arguments)
    folder = options.data / "flickr8k"
    if not (folder / "train.tsv").is_file():
        print(f"Flickr8k is not in {folder}; name its parent with --data", file=sys.stderr)
        return 1
    options.cache.mkdir(parents=True, exist_ok=True)
    train = flickr8k.load(folder, "train", flickr8k.VIEWS, options.cache)
    val = flickr8k.load(folder, "val", flickr8k.MIRROR + 1, options.cache)
    space = fit(train, seed=options.seed)
    name_classes(space)
    measure_hubs(space, train, seed=options.seed)
    content = space.to_bytes()
    options.out.write_bytes(content)
    found = recall(joint_space.from_bytes(content), val)
    print(", ".join(f"recall@{k} {value:.3f}" for k, value in found.items()))
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


def fit(train: Split, *, seed: int) -> JointSpace:
    """Train all heads on the same batches and return their moving average.

    Each head has its own contrastive loss (InfoNCE, van den Oord et al. 2018, arXiv 1807.03748,
    in both directions), so that they differ and their errors cancel.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    space = JointSpace(IMAGE_DROPOUT, TEXT_DROPOUT).train()
    standardise(space, train)
    log_scale = torch.nn.Parameter(torch.full((joint_space.HEADS, 1, 1), math.log(FIRST_SCALE)))
    optimizer = torch.optim.AdamW(
        [
            {"params": list(space.parameters()), "weight_decay": WEIGHT_DECAY},
            {"params": [log_scale], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
    )
    steps = EPOCHS * (len(train.views[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    average = copy.deepcopy(space).eval()
    captions_of = train.captions_of
    meaning = functional.normalize(torch.from_numpy(train.sentences[captions_of].mean(1)), dim=-1)
    for step, chosen in enumerate(_batches(len(captions_of), rng)):
        pick = rng.integers(0, captions_of.shape[1], (CAPTIONS, BATCH))
        captions = captions_of[chosen, pick].reshape(-1)
        images = space.look(grids(train, chosen, rng))
        texts = space.read(*caption_features(train, captions, TOKEN_DROPOUT))
        logits = log_scale.exp() * (images @ texts.transpose(1, 2))
        likeness = meaning[chosen] @ torch.from_numpy(train.sentences[captions]).T
        loss = contrast(logits, likeness)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        _follow(average, space, step)
        print(f"\rstep {step + 1}/{steps}, loss {loss.item():.2f}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return average


def contrast(logits: torch.Tensor, likeness: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against soft targets, in both directions, summed over heads.

    logits: (heads, photographs, captions), caption j belonging to photograph j modulo their
    number. likeness: (photographs, captions), cosine of the caption to the photograph's captions.
    """
    photographs, captions = likeness.shape
    own = torch.eye(photographs).repeat(1, captions // photographs)
    total = logits.new_zeros(())
    for scores, near, mine in (
        (logits, likeness, own * photographs / captions),
        (logits.transpose(1, 2), likeness.T, own.T),
    ):
        target = (1 - SOFT_SHARE) * mine + SOFT_SHARE * (near / SOFT_TEMPERATURE).softmax(1)
        total = total - (target * scores.log_softmax(2)).sum(2).mean(1).sum()
    return total


def grids(train: Split, chosen: Rows, rng: np.random.Generator) -> torch.Tensor:
    """Return one random view of each chosen photograph, (N, PLACES, IMAGE_WIDTH) float32."""
    view = rng.integers(0, len(train.views), len(chosen))
    found = np.stack([train.views[v][i] for v, i in zip(view, chosen, strict=True)])
    return torch.from_numpy(found).float()


def caption_features(
    split: Split, captions: Rows, token_dropout: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states, mask and sentences of the given captions, cut to the longest of them."""
    mask = torch.from_numpy(split.mask[captions])
    length = int(mask.sum(1).max())
    states = torch.from_numpy(split.states[captions, :length]).float()
    mask = mask[:, :length]
    mask = mask & (torch.rand(mask.shape) >= token_dropout)
    return states, mask, torch.from_numpy(split.sentences[captions])


def standardise(space: JointSpace, train: Split) -> None:
    """Set the means and scales of the features, from part of the training split."""
    places = torch.from_numpy(train.views[0][:2000]).float().flatten(0, 1)
    space.image_mean.copy_(places.mean(0))
    space.image_scale.copy_(places.std(0) + 0.05)
    sentences = torch.from_numpy(train.sentences)
    space.sentence_mean.copy_(sentences.mean(0))
    space.sentence_scale.copy_(sentences.std())
    states, mask, _ = caption_features(train, np.arange(0, len(train.mask), 50))
    space.states_scale.copy_(states[mask].std())


def name_classes(space: JointSpace) -> None:
    """Set the embedding of each ImageNet class: the first of its names, in a sentence."""
    info, tower = ImageNetInfo("imagenet-1k"), TextTower()
    names = [info.index_to_description(i).split(",")[0] for i in range(joint_space.CLASSES)]
    sentences = [tower.states([f"a photo of a {name}"])[2] for name in names]
    found = torch.cat(sentences)
    space.class_names.copy_(functional.normalize(found - found.mean(0), dim=-1))


@torch.inference_mode()
def measure_hubs(space: JointSpace, train: Split, *, seed: int) -> None:
    """Keep some training captions as the query bank, and the range of hubness they measure."""
    captions = np.random.default_rng(seed).permutation(len(train.owner))[: joint_space.QUERIES]
    space.queries.copy_(joint_space.join(space.read(*caption_features(train, captions))))
    found = []
    for start in range(0, len(train.views[0]), 500):
        plain, mirrored = (
            space.look(torch.from_numpy(train.views[view][start : start + 500]).float())
            for view in (0, flickr8k.MIRROR)
        )
        found.append(space.hubness(joint_space.join(plain + mirrored)))
    hubness = torch.cat(found)
    low, high = hubness.quantile(torch.tensor([0.1, 0.99]))
    space.hub_range.copy_(torch.stack([low, hubness.mean(), high]))


@torch.inference_mode()
def recall(space: JointSpace, split: Split) -> dict[int, float]:
    """Return recall@k, words to image: the share of captions whose photograph is in the first k."""
    plain, mirrored = (torch.from_numpy(split.views[view]).float() for view in (0, flickr8k.MIRROR))
    tower = ImageTower()
    classes = (tower.classes(plain) + tower.classes(mirrored)) / 2
    images = space.images(plain, mirrored, classes)
    texts = torch.cat(
        [
            space.texts(*caption_features(split, captions))
            for captions in np.array_split(np.arange(len(split.owner)), 20)
        ]
    )
    scores = texts @ images.T
    own = scores.gather(1, torch.from_numpy(split.owner)[:, None])
    rank = (scores > own).sum(1)
    return {k: (rank < k).float().mean().item() for k in (1, 5, 10)}


def _batches(photographs: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Yield BATCH photographs at a time, every epoch in a new order, the remainder left out."""
    for _ in range(EPOCHS):
        yield from rng.permutation(photographs)[: photographs // BATCH * BATCH].reshape(-1, BATCH)


def _rate(step: int, steps: int) -> float:
    """Warm up over a tenth of the steps, then fall along a cosine."""
    return min(1.0, 10 * (step + 1) / steps) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@torch.no_grad()
def _follow(average: JointSpace, space: JointSpace, step: int) -> None:
    """Move the exponential average, faster while it is young."""
    share = max(0.005, AVERAGED_STEPS / (step + AVERAGED_STEPS + 1))
    for kept, new in zip(average.parameters(), space.parameters(), strict=True):
        kept.lerp_(new, share)


if __name__ == "__main__":
    sys.exit(main())
