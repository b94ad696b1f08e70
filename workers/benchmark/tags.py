"""Tags by the encoder against the words of captions: Flickr8k's val, decoded and encoded here.

No label is used for the thresholds. Beside them stands what is known to fail on other encoders and
collections: one flat cut-off on the cosine, here chosen with the labels of the same pictures.
"""

import csv
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from retrieval import tag_words
from retrieval.confidence import OTHER_WORDS
from workers.benchmark.table import Cell, Setting, Table
from workers.decode.sandbox import decode
from workers.encode.encoder import Encoder, encode_all
from workers.encode.registry import EMBEDDED, load

SHOWN: Final = {
    "dog": "dog dogs puppy puppies",
    "child": "child children kid kids boy boys girl girls toddler toddlers baby",
    "water": "water lake ocean sea river pool",
    "snow": "snow snowy",
    "ball": "ball balls basketball football soccer tennis baseball",
    "beach": "beach",
    "bicycle": "bicycle bike bikes bicycles biker cyclist bicyclist",
    "grass": "grass grassy lawn",
    "street": "street road",
    "mountain": "mountain mountains",
    "woman": "woman women lady girl girls",
    "man": "man men guy guys",
    "crowd": "crowd",
    "boat": "boat boats canoe kayak raft",
    "horse": "horse horses",
    "car": "car cars",
    "rock": "rock rocks cliff",
    "skateboard": "skateboard skateboarder skateboarding",
    "motorcycle": "motorcycle motorbike motorcycles",
}
"""Tag words, and the words of a caption that say the same."""
SHOWN_BY: Final = {word: set(said.split()) for word, said in SHOWN.items()}
NOT_SHOWN: Final = ("elephant", "aeroplane", "microscope", "X-ray", "circuit board", "pizza")
LEAST_SHOWN: Final = 5


def tables(setting: Setting) -> Iterator[Table]:
    folder = setting.data / "flickr8k"
    if not (folder / "val.zip").is_file():
        return
    encoder = load(EMBEDDED)
    names, images = _encoded(folder / "val.zip", setting.files, encoder)
    captions = _captions(folder / "val.tsv")
    words = [*SHOWN, *NOT_SHOWN]
    others = encoder.encode_texts(OTHER_WORDS)
    prompts = encoder.encode_texts([p.format(word) for word in words for p in tag_words.PROMPTS])
    directions = tag_words.directions(prompts.reshape(len(words), -1, encoder.dimensions), others)
    least = tag_words.least_scores(images, directions, others)
    is_set = images @ directions.T >= np.array(least)
    shown = np.array([[bool(SHOWN_BY[word] & captions[n]) for word in SHOWN] for n in names])
    cosines = images @ encoder.encode_texts(words).T
    flat = max(
        np.quantile(cosines, np.linspace(0.8, 0.995, 40)),
        key=lambda cut: _mean(cosines >= cut, shown)["F1"],
    )
    yield Table(
        "tags by the encoder, each word's own threshold, without labels",
        tuple(_row(word, is_set[:, at], shown[:, at]) for at, word in enumerate(SHOWN)),
        f"{len(names)} pictures of Flickr8k's val; shows it: one of five captions says so",
    )
    yield Table(
        "mean over the words, and words that no picture shows",
        (
            _summary("own thresholds, no labels", is_set, shown),
            _summary("one cut-off on the cosine, best by the labels", cosines >= flat, shown),
        ),
    )


def _encoded(archive: Path, files: int | None, encoder: Encoder) -> tuple[list[str], np.ndarray]:
    with zipfile.ZipFile(archive) as photographs:
        names = sorted(n for n in photographs.namelist() if n.endswith(".jpg"))[:files]
        batches = [names[at : at + 16] for at in range(0, len(names), 16)]
        rows = [
            encode_all(encoder, [decode(photographs.read(name)).pixels for name in batch])
            for batch in batches
        ]
    return [Path(name).name for name in names], np.concatenate(rows)


def _captions(path: Path) -> dict[str, set[str]]:
    """All words that were said of each picture."""
    said: dict[str, set[str]] = defaultdict(set)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            said[row["file"]] |= set(re.findall("[a-z]+", row["caption"].lower()))
    return said


def _row(word: str, is_set: np.ndarray, shown: np.ndarray) -> dict[str, Cell]:
    precision, recall = _precision_recall(is_set, shown)
    return {
        "tag": word,
        "show it": int(shown.sum()),
        "set": int(is_set.sum()),
        "precision": round(precision, 2),
        "recall": round(recall, 2),
    }


def _precision_recall(is_set: np.ndarray, shown: np.ndarray) -> tuple[float, float]:
    right = int((is_set & shown).sum())
    return right / max(int(is_set.sum()), 1), right / max(int(shown.sum()), 1)


def _mean(is_set: np.ndarray, shown: np.ndarray) -> dict[str, float]:
    """Over the words that enough pictures show."""
    enough: Sequence[int] = [at for at in range(len(SHOWN)) if shown[:, at].sum() >= LEAST_SHOWN]
    found = [_precision_recall(is_set[:, at], shown[:, at]) for at in enough]
    f1 = [2 * p * r / (p + r) if p + r else 0.0 for p, r in found]
    precision, recall = (float(each) for each in np.mean(found, axis=0))
    return {
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "F1": round(float(np.mean(f1)), 3),
    }


def _summary(what: str, is_set: np.ndarray, shown: np.ndarray) -> dict[str, Cell]:
    absent = f"{is_set[:, len(SHOWN) :].mean():.1%}"
    return {"": what, **_mean(is_set, shown), "set where not shown": absent}
