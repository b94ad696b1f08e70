"""Train the embedded encoder's projection on Flickr8k and write it as safetensors.

    python -m workers.encode.train_projection --data DIR --seed S --out FILE

Chooses on the 1,000 photographs of `val`; the kept-back test photographs are not read.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from workers.encode import lite0, minilm
from workers.encode.encoder import Pixels
from workers.encode.projection import Projection

DEFAULT_DATA = "../shared/data"
T = TypeVar("T")
PENALTIES = (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class Split:
    """Features of one split; photograph i has the captions whose `owner` is i."""

    images: torch.Tensor  # (photographs, 1280)
    captions: torch.Tensor  # (captions, 384), unit rows
    owner: torch.Tensor  # (captions,) int64


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, report and write. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("CLOISTER_DATA", DEFAULT_DATA))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    folder = options.data / "flickr8k"
    if not (folder / "train.tsv").is_file():
        print(f"Flickr8k is not in {folder}; name its parent with --data", file=sys.stderr)
        return 1
    torch.manual_seed(options.seed)
    train, val = extract(folder, "train"), extract(folder, "val")
    trials = [(ridge(train, penalty), penalty) for penalty in PENALTIES]
    best, penalty = max(trials, key=lambda trial: recall(trial[0], val)[10])
    content = best.to_bytes()
    options.out.write_bytes(content)
    print(f"ridge, penalty {penalty:g}: {describe(recall(best, val))}")
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


@torch.inference_mode()
def extract(folder: Path, split: str) -> Split:
    """Run both frozen towers over one split."""
    rows = list(csv.DictReader((folder / f"{split}.tsv").open(newline=""), delimiter="\t"))
    files = list(dict.fromkeys(row["file"] for row in rows))
    position = {file: i for i, file in enumerate(files)}
    image_tower, text_tower, tokenizer = lite0.load(), minilm.load(), minilm.load_tokenizer()
    images, captions = [], []
    for batch in batches(list(photographs(folder / f"{split}.zip", files)), 8):
        images.append(image_tower(lite0.preprocess(batch)).mean((2, 3)))
    for texts in batches([row["caption"] for row in rows], 64):
        ids, mask = tokenizer(texts)
        captions.append(minilm.mean_of_tokens(text_tower(ids, mask), mask))
    owner = torch.tensor([position[row["file"]] for row in rows])
    return Split(torch.cat(images), torch.cat(captions), owner)


def photographs(archive: Path, files: Sequence[str]) -> Iterator[Pixels]:
    """Decode the named members of a zip file as RGB."""
    with zipfile.ZipFile(archive) as opened:
        for file in files:
            with opened.open(file) as member:
                yield np.asarray(Image.open(member).convert("RGB"))


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of `size`, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def ridge(train: Split, penalty: float) -> Projection:
    """Solve, in closed form, for the image map that lands on the mean caption embedding."""
    count = len(train.images)
    target = torch.zeros(count, train.captions.shape[1]).index_add_(0, train.owner, train.captions)
    target /= torch.bincount(train.owner, minlength=count)[:, None]
    image_mean, text_mean = train.images.mean(0), target.mean(0)
    x, y = train.images - image_mean, target - text_mean
    weight = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]), x.T @ y)
    return Projection(weight, -image_mean @ weight, torch.eye(y.shape[1]), -text_mean)


def recall(projection: Projection, split: Split) -> dict[int, float]:
    """Return recall@k, words to image: the share of captions whose photograph is in the first k."""
    scores = projection.texts(split.captions) @ projection.images(split.images).T
    own = scores.gather(1, split.owner[:, None])
    rank = (scores > own).sum(1)
    return {k: (rank < k).float().mean().item() for k in (1, 5, 10)}


def describe(found: dict[int, float]) -> str:
    """Format recall for a line of output."""
    return ", ".join(f"recall@{k} {value:.3f}" for k, value in found.items())


if __name__ == "__main__":
    sys.exit(main())
