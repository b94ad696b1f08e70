"""What parts do to ordinary search, and how often a match that is called confident is one.

Photographs of Flickr8k's val, enlarged so that they have parts, are looked for by captions, as
wholes and with their corners. Captions of other photographs and words of other fields have no
answer among them.
"""

import csv
import random
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from retrieval.confidence import OTHER_WORDS, is_confident
from retrieval.index.neighbours import BACKGROUND
from workers.benchmark.regions import enlarged, read
from workers.benchmark.table import Cell, Setting, Table
from workers.encode import regions
from workers.encode.encoder import Encoder, Pixels, Vectors, encode_all
from workers.encode.registry import EMBEDDED, load

PHOTOGRAPHS = 500
CAPTIONS = 2
SIZES = (100, 250, 500)
DRAWS = 5
SEED = 7
WAYS: Final = {"the whole": 1, "and its corners": 5}
"""How many of a photograph's rows are kept, the whole first."""


@dataclass(frozen=True)
class Encoded:
    """photographs: (N, rows, dimensions). captions: (N × CAPTIONS, dimensions), in their order.

    absent: captions of other photographs. foreign: FOREIGN. others: OTHER_WORDS.
    """

    photographs: np.ndarray
    captions: Vectors
    absent: Vectors
    foreign: Vectors
    others: Vectors


def tables(setting: Setting) -> Iterator[Table]:
    folder = setting.data / "flickr8k"
    if not (folder / "val.zip").is_file():
        yield Table("confident matches", (), "no public data: flickr8k")
        return
    with (folder / "val.tsv").open(newline="", encoding="utf-8") as table:
        said = defaultdict(list)
        for row in csv.DictReader(table, delimiter="\t"):
            said[row["file"]].append(row["caption"])
    count = min(PHOTOGRAPHS, setting.files or PHOTOGRAPHS)
    shuffled = random.Random(SEED).sample(sorted(said), len(said))  # noqa: S311  repeatable
    encoder = load(EMBEDDED)
    with zipfile.ZipFile(folder / "val.zip") as archive:
        photographs = [_rows(encoder, enlarged(read(archive.read(n)))) for n in shuffled[:count]]
    captions = [caption for name in shuffled for caption in said[name][:CAPTIONS]]
    encoded = Encoded(
        np.stack(photographs),
        encoder.encode_texts(captions[: CAPTIONS * count]),
        encoder.encode_texts(captions[CAPTIONS * count :][: CAPTIONS * count]),
        encoder.encode_texts(FOREIGN),
        encoder.encode_texts(OTHER_WORDS),
    )
    told = f"{count} photographs of flickr8k, enlarged, {CAPTIONS} captions each, seed {SEED}"
    yield Table(
        "ordinary search by words",
        tuple({"vectors of": way, **ordinary(encoded, rows)} for way, rows in WAYS.items()),
        told,
    )
    yield Table(
        "confident matches",
        tuple(
            {"images": size, "vectors of": way, **confident(encoded, size, rows)}
            for size in SIZES
            if size <= count
            for way, rows in WAYS.items()
        ),
        f"{told}; mean of {DRAWS} draws",
    )


def ordinary(encoded: Encoded, rows: int) -> dict[str, Cell]:
    """Recall where the nearest of the first `rows` of each photograph counts."""
    scores = _scores(encoded.captions, encoded.photographs[:, :rows])
    queries = np.arange(len(scores))
    ranks = (scores > scores[queries, queries // CAPTIONS][:, None]).sum(axis=1)
    return {f"recall@{k}": round(float((ranks < k).mean()), 4) for k in (1, 5, 10)}


def confident(encoded: Encoded, size: int, rows: int) -> dict[str, Cell]:
    """Of `size` photographs drawn by chance; precision: the caption's own photograph is first."""
    chance = random.Random(SEED)  # noqa: S311  repeatable
    told: dict[str, list[bool]] = defaultdict(list)
    for _ in range(DRAWS if size < len(encoded.photographs) else 1):
        drawn = chance.sample(range(len(encoded.photographs)), size)
        there = encoded.photographs[drawn, :rows]
        under_other_words = _scores(encoded.others, there)
        asked = {
            "present": encoded.captions.reshape(len(encoded.photographs), CAPTIONS, -1)[drawn],
            "absent": encoded.absent,
            "foreign": encoded.foreign,
        }
        for kind, queries in asked.items():
            scores = _scores(queries.reshape(-1, queries.shape[-1]), there)
            for number, row in enumerate(scores):
                first = int(row.argmax())
                others = row[:BACKGROUND], under_other_words[:, first]
                told[kind].append(bool(is_confident(row[first], *others)))
                if kind == "present":
                    told["first"].append(first == number // CAPTIONS)
    right, sure = np.array(told["first"]), np.array(told["present"])
    return {
        "first of all queries": round(float(right.mean()), 2),
        "confident": round(float(sure.mean()), 2),
        "precision of these": round(float(right[sure].mean()), 2) if sure.any() else None,
        "absent confident": round(float(np.mean(told["absent"])), 2),
        "foreign confident": round(float(np.mean(told["foreign"])), 2),
    }


def _scores(queries: Vectors, photographs: np.ndarray) -> np.ndarray:
    """(queries, photographs), each photograph by its nearest row."""
    return np.stack([(rows @ queries.T).max(axis=0) for rows in photographs], axis=1)


def _rows(encoder: Encoder, pixels: Pixels) -> Vectors:
    height, width = pixels.shape[:2]
    parts = regions.parts_of(pixels, (), encoder.side)
    assert len(parts) + 1 == max(WAYS.values()), (height, width)  # noqa: S101  they are enlarged
    whole, *rest = encode_all(encoder, [pixels, *(regions.cut(pixels, part) for part in parts)])
    return np.stack([whole, *regions.leaning(np.stack(rest), whole)])


FOREIGN: Final = (
    "a fracture of the wrist in plaster",
    "lungs with fluid on the left side",
    "a blood smear with parasites",
    "the retina of a diabetic patient",
    "a mammogram with calcifications",
    "a scan of the brain after a stroke",
    "a colon polyp seen through an endoscope",
    "a kidney stone in an ultrasound",
    "a rash on a forearm",
    "a dental implant",
    "an artificial hip in a radiograph",
    "a heart valve during surgery",
    "a swollen optic nerve",
    "a biopsy stained purple",
    "a corroded pipe flange",
    "a scratch on a metal sheet",
    "a missing solder joint",
    "a turbine blade under inspection",
    "a worn gear tooth",
    "a leaking hydraulic hose",
    "a pallet of sealed cartons",
    "a barcode label on a parcel",
    "a robot arm welding a frame",
    "a thermal image of a transformer",
    "a crack in a concrete pillar",
    "a lathe cutting brass",
    "a bottle without a cap on a conveyor",
    "a wiring cabinet with fuses",
    "an invoice with a signature",
    "a spreadsheet of quarterly figures",
    "a floor plan of an office",
    "a slide with a pie chart",
    "a whiteboard full of formulas",
    "an identity card on a desk",
    "a printed contract",
    "an envelope with a stamp",
    "a flow chart of a process",
    "a calendar page",
    "a keyboard and two monitors",
    "a stack of folders",
)
"""Of medicine, industry and offices: what no photograph of Flickr8k is asked for by."""
