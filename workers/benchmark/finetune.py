"""Private fine-tuning on Flickr8k: recall@10 by objective and ε, beside the frozen baseline.

Features are kept in the appliance's data folder: they take half of the first run.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from django.conf import settings
from numpy.typing import NDArray

from retrieval.errors import QueriesUnreadable
from workers.benchmark.table import Cell, Setting, Table
from workers.encode import efficientnet_lite, flickr8k, minilm
from workers.encode.towers import TextTower
from workers.finetune import experiment
from workers.finetune.data import Floats, Public, collect
from workers.finetune.run import HeldOut

PUBLIC_SHARE = 3  # a third of `train` is public; the others are the private collection
DELTA = 1e-5
AT_ONCE = 32


@dataclass(frozen=True)
class Split:
    """Photographs and captions as the frozen towers see them; caption j is of `owner[j]`."""

    images: Floats  # (N, 1280): EfficientNet-Lite0, pooled
    sentences: Floats  # (Q, 384), unit rows
    owner: NDArray[np.int64]  # (Q,)

    @property
    def texts(self) -> Floats:
        """(N, 384): the mean of each photograph's captions."""
        total = np.zeros((len(self.images), self.sentences.shape[1]), np.float32)
        np.add.at(total, self.owner, self.sentences)
        return np.asarray(total / np.bincount(self.owner)[:, None], np.float32)


def tables(setting: Setting) -> Iterator[Table]:
    """One row per training, then one per objective as docs/benchmarks.md has it."""
    folder = setting.data / "flickr8k"
    if not (folder / "train.zip").is_file():
        raise QueriesUnreadable("private fine-tuning is measured on flickr8k (--data)")
    train, val = (_load(folder, name, setting.files) for name in ("train", "val"))
    public = len(train.images) // PUBLIC_SHARE
    asked = train.owner < public
    cells = list(
        experiment.table(
            collect(train.images[public:], train.texts[public:], None),
            Public(train.images[:public], train.texts[:public]),
            (train.sentences[asked], train.owner[asked]),
            HeldOut(val.images, val.sentences, val.owner, collect(val.images, val.texts, None)),
            DELTA,
        )
    )
    yield Table(
        "private fine-tuning, words to image",
        tuple(_row(cell) for cell in cells),
        "inf: without noise; clip: the quantile of public lengths; step: the rate, or the penalty"
        " per unit of least squares",
    )
    counted = f"{len(train.images) - public} private units, {public} public, δ = {DELTA:g}"
    spread = f"mean of {experiment.SEEDS} runs (lowest to highest)"
    yield Table(
        "the same, by objective",
        tuple(_summary(name, cells) for name in ("frozen", *experiment.OBJECTIVES)),
        f"{spread}; lost: points below non-private; {counted}",
    )


def _summary(name: str, cells: Sequence[experiment.Cell]) -> dict[str, Cell]:
    """A line of the table: the mean and the spread of each ε's runs, and what they lose."""
    by_epsilon = {
        epsilon: [c.recall_at_10 for c in cells if (c.objective, c.epsilon) == (name, epsilon)]
        for epsilon in (0.0, *experiment.EPSILONS, experiment.NON_PRIVATE)
    }
    if frozen := by_epsilon[0.0]:
        by_epsilon = dict.fromkeys(by_epsilon, frozen)
    (best,) = by_epsilon[experiment.NON_PRIVATE]
    line: dict[str, Cell] = {"objective": name}
    for epsilon in experiment.EPSILONS:
        found = by_epsilon[epsilon]
        mean = float(np.mean(found))
        line[f"ε = {epsilon:g}"] = f"{mean:.3f} ({min(found):.3f}-{max(found):.3f})"
        line[f"lost at {epsilon:g}"] = round(100 * (best - mean), 1)
    return line | {"non-private": round(best, 4)}


def _row(cell: experiment.Cell) -> dict[str, Cell]:
    clip = step = mixing = None
    if cell.setting is not None:
        solved = cell.objective == "least_squares"
        step = cell.setting.recipe.penalty if solved else cell.setting.recipe.learning_rate
        clip, mixing = cell.setting.clip_quantile, cell.setting.mixing
    return {
        "objective": cell.objective,
        "epsilon": str(cell.epsilon),
        "run": cell.seed,
        "recall@10": round(cell.recall_at_10, 4),
        "seconds": round(cell.seconds, 1),
        "clip": clip,
        "step": step,
        "mixing": mixing,
    }


def _load(folder: Path, name: str, most: int | None) -> Split:
    """The first `most` photographs of a split. What was computed before is read again."""
    with (folder / f"{name}.tsv").open(newline="", encoding="utf-8") as table:
        told = list(csv.DictReader(table, delimiter="\t"))
    files = list(dict.fromkeys(row["file"] for row in told))[:most]
    position = {file: number for number, file in enumerate(files)}
    told = [row for row in told if row["file"] in position]
    captions = [row["caption"] for row in told]
    owner = np.array([position[row["file"]] for row in told])
    archive = folder / f"{name}.zip"
    kept = _kept(archive, captions)
    if not kept.exists():
        images, sentences = _of_images(archive, files), _of_captions(captions)
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = kept.with_suffix(".draft.npz")
        np.savez(draft, images=images, sentences=sentences)
        draft.replace(kept)
    with np.load(kept) as found:
        return Split(found["images"], found["sentences"], owner)


def _kept(archive: Path, captions: Sequence[str]) -> Path:
    """Named by all that the features follow from."""
    said = hashlib.sha256(archive.read_bytes())
    said.update("\n".join([efficientnet_lite.LITE0.sha256, TextTower.digest, *captions]).encode())
    return Path(settings.CLOISTER_STORE) / "benchmark" / f"{said.hexdigest()[:32]}.npz"


@torch.inference_mode()
def _of_images(archive: Path, files: Sequence[str]) -> Floats:
    network = efficientnet_lite.load(efficientnet_lite.LITE0)
    found = []
    for photograph in flickr8k.photographs(archive, files):
        batch = efficientnet_lite.preprocess([np.asarray(photograph)])
        found.append(network(batch).mean((2, 3)))
    return np.asarray(torch.cat(found).numpy())


def _of_captions(captions: Sequence[str]) -> Floats:
    """Captions of a length are read together: none waits for another's padding."""
    tower = TextTower()
    order = sorted(range(len(captions)), key=lambda row: len(captions[row]))
    found = np.zeros((len(captions), minilm.WIDTH), np.float32)
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        found[chosen] = tower.states([captions[row] for row in chosen])[2].numpy()
    return found
