"""Flickr8k as features: both frozen towers' output, with the views training needs.

Hodosh, Young & Hockenmaier 2013, "Framing image description as a ranking task", JAIR 47.
"""

from __future__ import annotations

import csv
import math
import random
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from workers.encode import minilm
from workers.encode.towers import ImageTower

MIRROR = 1
VIEWS = 5
MAX_TOKENS = 40
CAPTIONS_EACH = 5


@dataclass(frozen=True)
class Split:
    """Photograph i has the captions in row i of `captions_of`; features are float16."""

    views: list[NDArray[np.float16]]  # each (photographs, PLACES, IMAGE_WIDTH)
    states: NDArray[np.float16]  # (captions, MAX_TOKENS, TEXT_WIDTH)
    mask: NDArray[np.bool_]  # (captions, MAX_TOKENS)
    sentences: NDArray[np.float32]  # (captions, TEXT_WIDTH), unit rows
    owner: NDArray[np.int64]  # (captions,), the photograph of each

    @property
    def captions_of(self) -> NDArray[np.int64]:
        """(photographs, CAPTIONS_EACH) int64; a photograph with fewer repeats them."""
        count = int(self.owner.max()) + 1
        return np.stack(
            [np.resize(np.flatnonzero(self.owner == i), CAPTIONS_EACH) for i in range(count)]
        )


def load(folder: Path, split: str, views: int, cache: Path) -> Split:
    """Read one split, computing what is not in `cache` yet: minutes per view on one core."""
    with (folder / f"{split}.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    files = list(dict.fromkeys(row["file"] for row in rows))
    position = {file: i for i, file in enumerate(files)}
    grids = [
        _cached_grids(cache / f"{split}{view}.npy", folder / f"{split}.zip", files, view)
        for view in range(views)
    ]
    owner = np.array([position[row["file"]] for row in rows])
    captions = [row["caption"] for row in rows]
    return Split(grids, *_cached_captions(cache / f"{split}-captions.npz", captions), owner)


def augmented(photograph: Image.Image, view: int, rng: random.Random) -> Image.Image:
    """View 0 is the photograph, 1 its mirror image; others are cropped, recoloured, mirrored.

    Odd ones have up to three boxes covered as well: in the appliance faces are.
    """
    if view == 0:
        return photograph
    if view == MIRROR:
        return photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    full_width, full_height = photograph.size
    area = full_width * full_height * rng.uniform(0.5, 1)
    ratio = math.exp(rng.uniform(-0.29, 0.29))
    width = min(full_width, int(math.sqrt(area * ratio)))
    height = min(full_height, int(math.sqrt(area / ratio)))
    left, top = rng.randint(0, full_width - width), rng.randint(0, full_height - height)
    picture = photograph.crop((left, top, left + width, top + height)).resize(photograph.size)
    if rng.random() < 0.5:  # noqa: PLR2004
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for property_of in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = property_of(picture).enhance(rng.uniform(0.8, 1.2))
    if view % 2:
        for _ in range(rng.randint(1, 3)):
            _cover_a_box(picture, rng)
    return picture


def _cover_a_box(picture: Image.Image, rng: random.Random) -> None:
    """Paint one face-sized box in its mean colour or in black."""
    width = rng.randint(12, 48)
    height = int(width * 1.2)
    left = rng.randint(0, picture.width - 1 - width)
    top = rng.randint(0, picture.height * 2 // 3)
    cover = Image.new("RGB", (width, height))
    if rng.random() < 0.5:  # noqa: PLR2004
        box = picture.crop((left, top, left + width, top + width))
        cover = box.resize((1, 1), Image.Resampling.BOX).resize((width, height))
    picture.paste(cover, (left, top))


def _cached_grids(
    cached: Path, archive: Path, files: Sequence[str], view: int
) -> NDArray[np.float16]:
    if not cached.exists():
        tower = ImageTower()
        rng = random.Random(cached.stem)  # noqa: S311  augmentation, not a secret
        grids = [
            tower.grid(tower.preprocess([np.asarray(augmented(photograph, view, rng))]))
            for photograph in photographs(archive, files)
        ]
        np.save(cached, torch.cat(grids).half().numpy())
    found: NDArray[np.float16] = np.load(cached)
    return found


def photographs(archive: Path, files: Sequence[str]) -> Iterator[Image.Image]:
    with zipfile.ZipFile(archive) as opened:
        for file in files:
            with opened.open(file) as member:
                yield Image.open(member).convert("RGB")


@torch.inference_mode()
def _cached_captions(
    cached: Path, captions: Sequence[str]
) -> tuple[NDArray[np.float16], NDArray[np.bool_], NDArray[np.float32]]:
    if not cached.exists():
        states, mask, sentences = _caption_features(captions)
        np.savez(cached, states=states, mask=mask, sentences=sentences)
    with np.load(cached) as found:
        return found["states"], found["mask"], found["sentences"]


def _caption_features(
    captions: Sequence[str],
) -> tuple[NDArray[np.float16], NDArray[np.bool_], NDArray[np.float32]]:
    tower, tokenizer = minilm.load(), minilm.load_tokenizer()
    states = np.zeros((len(captions), MAX_TOKENS, minilm.WIDTH), np.float16)
    mask = np.zeros((len(captions), MAX_TOKENS), np.bool_)
    sentences = np.zeros((len(captions), minilm.WIDTH), np.float32)
    by_length = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    for start in range(0, len(captions), 32):
        chosen = by_length[start : start + 32]
        ids, real = tokenizer([captions[i] for i in chosen])
        found = tower(ids, real)
        length = min(MAX_TOKENS, ids.shape[1])
        states[chosen, :length] = found[:, :length].numpy()
        mask[chosen, :length] = real[:, :length].numpy()
        sentences[chosen] = minilm.mean_of_tokens(found, real).numpy()
    return states, mask, sentences
