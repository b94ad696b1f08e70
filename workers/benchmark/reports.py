"""Pictures found by what they show, by what their reports say, and by both: Flickr8k's val.

The first caption of each photograph is its report, cleaned as any; the other four, by other people,
are the queries. Ranked in main memory, as a search of one collection ranks.
"""

import csv
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from retrieval import fusion
from retrieval.search import LEAST_SAID, POOL
from workers.benchmark.table import Cell, Setting, Table
from workers.decode.sandbox import decode
from workers.deidentify.dicom.words import Known
from workers.deidentify.report import cleaned_report
from workers.encode.encoder import Encoder, encode_all
from workers.encode.registry import EMBEDDED, REPORTS, load

CUTS: Final = (1, 5, 10)
ENCODED_TOGETHER: Final = 16


def tables(setting: Setting) -> Iterator[Table]:
    folder = setting.data / "flickr8k"
    if not (folder / "val.zip").is_file():
        return
    captions = _captions(folder / "val.tsv", setting.files)
    names = list(captions)
    queries = [words for name in names for words in captions[name][1:]]
    wanted = [place for place, name in enumerate(names) for _ in captions[name][1:]]
    shows, says = load(EMBEDDED), load(REPORTS)
    said = [cleaned_report(captions[name][0], Known(None)) for name in names]
    by_picture = _texts(shows, queries) @ _pictures(folder / "val.zip", names, shows).T
    by_report = _texts(says, queries) @ _texts(says, said).T
    pictures, reports = _rankings(by_picture, -2.0), _rankings(by_report, LEAST_SAID)
    both = [
        [place for place, _ in fusion.fuse_ranks([(one, 1.0), (other, 1.0)])]
        for one, other in zip(pictures, reports, strict=True)
    ]
    ways = {"pictures": pictures, "reports": _rankings(by_report, -2.0), "both": both}
    yield Table(
        "pictures by words: held against pictures, reports, and both",
        tuple(_row(way, ranked, wanted) for way, ranked in ways.items()),
        f"{len(names)} pictures of Flickr8k's val with a caption as report; {len(queries)} queries",
    )


def _captions(path: Path, files: int | None) -> dict[str, list[str]]:
    said: dict[str, list[str]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            said[row["file"]].append(row["caption"])
    return dict(list(said.items())[:files])


def _texts(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    starts = range(0, len(texts), ENCODED_TOGETHER)
    return np.concatenate(
        [encoder.encode_texts(texts[at : at + ENCODED_TOGETHER]) for at in starts]
    )


def _pictures(archive: Path, names: Sequence[str], encoder: Encoder) -> np.ndarray:
    with zipfile.ZipFile(archive) as photographs:
        members = {Path(member).name: member for member in photographs.namelist()}
        return np.concatenate(
            [
                encode_all(
                    encoder,
                    [
                        decode(photographs.read(members[name])).pixels
                        for name in names[at : at + ENCODED_TOGETHER]
                    ],
                )
                for at in range(0, len(names), ENCODED_TOGETHER)
            ]
        )


def _rankings(scores: np.ndarray, least: float) -> list[list[int]]:
    """The places that a search would fuse, of (queries, pictures) scores."""
    nearest = np.argsort(-scores, axis=1)[:, : POOL * CUTS[-1]]
    return [
        [int(place) for place in places if row[place] >= least]
        for places, row in zip(nearest, scores, strict=True)
    ]


def _row(way: str, ranked: Sequence[Sequence[int]], wanted: Sequence[int]) -> dict[str, Cell]:
    recall = {
        f"recall@{k}": round(
            float(np.mean([want in row[:k] for row, want in zip(ranked, wanted, strict=True)])), 3
        )
        for k in CUTS
    }
    return {"words held against": way, **recall}
