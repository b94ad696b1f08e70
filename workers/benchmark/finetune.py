"""Private fine-tuning on Flickr8k: recall@10 by objective and ε, beside the frozen baseline."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from retrieval.errors import QueriesUnreadable
from workers.benchmark.table import Cell, Setting, Table
from workers.encode import flickr8k
from workers.finetune import experiment, tower
from workers.finetune.data import Floats, Public, collect
from workers.finetune.run import HeldOut

PUBLIC = 2000  # of `train`; the others are the private collection
LITE0 = 1280  # columns of the first image tower
DELTA = 1e-5


def tables(setting: Setting) -> Iterator[Table]:
    """One row per training; features are computed first, which takes most of the time.

    Before it, what clipping costs inside a tower, on the device at hand.
    """
    yield _of_towers()
    folder = setting.data / "flickr8k"
    if not (folder / "train.zip").is_file():
        raise QueriesUnreadable("private fine-tuning is measured on flickr8k (--data)")
    with tempfile.TemporaryDirectory() as cache:
        train, val = (flickr8k.load(folder, split, 1, Path(cache)) for split in ("train", "val"))
    images, texts = _pairs(train)
    asked = train.owner < PUBLIC
    found = experiment.table(
        collect(images[PUBLIC:], texts[PUBLIC:], None),
        Public(images[:PUBLIC], texts[:PUBLIC]),
        (train.sentences[asked], train.owner[asked]),
        HeldOut(_pairs(val)[0], val.sentences, val.owner, collect(*_pairs(val), None)),
        DELTA,
    )
    rows: list[dict[str, Cell]] = [
        {
            "objective": cell.objective,
            "epsilon": str(cell.epsilon),
            "run": cell.seed,
            "recall@10": round(cell.recall_at_10, 4),
        }
        for cell in found
    ]
    yield Table("private fine-tuning, words to image", tuple(rows), "inf: without noise")


def _of_towers() -> Table:
    on_gpu = torch.cuda.is_available()
    names = tower.GPU_BATCHES if on_gpu else ("ViT-B-32",)
    rows: list[dict[str, Cell]] = [
        {
            "tower": cost.tower,
            "clipping": cost.clipping,
            "device": cost.device,
            "batch": cost.batch,
            "images/s": round(cost.images_per_s, 2),
            "peak MiB": cost.peak_mib,
        }
        for name in names
        for cost in tower.costs(name)
    ]
    note = "bfloat16 where autocast allows" if on_gpu else "no GPU: ViT-L-14 is left out"
    return Table("adapters in an image tower, one private step", tuple(rows), note)


def _pairs(split: flickr8k.Split) -> tuple[Floats, Floats]:
    """Pooled image features and mean captions, a row per photograph."""
    images = split.views[0].astype(np.float32).mean(1)[:, :LITE0]
    return images, split.sentences[split.captions_of].mean(1)
