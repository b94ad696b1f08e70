"""De-identification: faces beside stock deface, text, codes, DICOM headers by action, broken files.

Seconds are those of all processor cores this process used, so that other work on the machine
matters less than it does to a clock.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pydicom
import skimage
from rich.console import Console
from rich.progress import track

from retrieval.errors import Rejected
from retrieval.models import PrivacyProfile, Purpose, User
from retrieval.review import reviewed_boxes
from workers.benchmark.table import Cell, Setting, Table
from workers.decode.sandbox import decode
from workers.deidentify import measure_text
from workers.deidentify.codes import ZxingCodes
from workers.deidentify.dicom import burned, corpus, header
from workers.deidentify.dicom.mapping import Mapping
from workers.deidentify.dicom.pixels import Covered
from workers.deidentify.faces import union
from workers.deidentify.measure import (
    Detect,
    Labelled,
    by,
    harder,
    measure,
    needless_reviews,
    read_labelled,
    stock_deface,
)
from workers.deidentify.measure_codes import is_hidden, printed
from workers.deidentify.text import RapidText
from workers.deidentify.verdict import PROFILES, Profile, detectors_for
from workers.management.commands.deidentify import deidentify_content

_PICTURES = Path(skimage.__file__).parent / "data"
_DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
# The one face in scikit-image's pictures that a person drew a box around.
_ASTRONAUT = (180.0, 65.0, 90.0, 115.0)
_ROUNDS = 2  # of ten planted words a picture
_SEED = 1
_DIGITS = 4
_COVERED = 30  # photographs, each covered and looked at again
_SCANS = 5  # every so many X-rays


def tables(setting: Setting) -> Iterator[Table]:
    """Yield each table as soon as it is measured."""
    yield faces(setting)
    yield covering(setting)
    yield text(setting)
    yield codes(setting)
    yield dicom(setting)
    yield burned_words(setting)
    yield broken_files(setting)
    if setting.profile is not None and setting.user is not None:
        yield reviewed(setting.profile, setting.user)


def faces(setting: Setting) -> Table:
    """Ours and stock deface on the same pictures, as they are and made harder."""
    pictures, note = _labelled(setting)
    sets = {"as they are": pictures}
    if not note:
        sets |= harder(pictures, seed=_SEED)
    detectors = {"ours": by(union()), "stock deface": stock_deface()}
    rows: list[dict[str, Cell]] = [
        {"pictures": name, "detector": who, **_found(made, detect)}
        for name, made in track(sets.items(), "faces", console=Console(stderr=True), transient=True)
        for who, detect in detectors.items()
        if any(picture.faces for picture in made)
    ]
    return Table("faces, IoU ≥ 0.35", tuple(rows), note)


def _labelled(setting: Setting) -> tuple[list[Labelled], str]:
    """Photographs with their faces' boxes, and what one must know of them if they are none."""
    folder = setting.data / "faces"
    if (folder / "boxes.csv").is_file():
        return read_labelled(folder)[: setting.files], ""
    astronaut = decode((_PICTURES / "astronaut.png").read_bytes()).pixels
    note = "no faces in the folder of public data (--data): one photograph from a wheel only"
    return [Labelled(astronaut, (_ASTRONAUT,))], note


def covering(setting: Setting) -> Table:
    """How many photographs go to a person after their faces were covered, and what it takes."""
    pictures, note = _labelled(setting)
    pictures = pictures[:: -(-len(pictures) // _COVERED)]
    megapixels = sum(p.pixels.shape[0] * p.pixels.shape[1] for p in pictures) / 1e6
    rows: list[dict[str, Cell]] = []
    for cover in ("solid", "mosaic"):
        started = time.process_time()
        share = needless_reviews(pictures, Profile(cover, cover=cover), union())
        rows.append(
            {
                "cover": cover,
                "photographs": len(pictures),
                "sent to review": round(share, _DIGITS),
                "cpu s/MP, all looks": round((time.process_time() - started) / megapixels, 2),
            }
        )
    return Table("after covering", tuple(rows), note)


def codes(setting: Setting) -> Table:
    """Codes printed over anatomy and hidden, by kind and condition; and those seen in X-rays."""
    detector = ZxingCodes()
    hidden: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for code in printed(islice(measure_text.anatomy(), setting.files), seed=_SEED):
        hidden[code.kind, code.condition].append(is_hidden(code, detector))
    rows: list[dict[str, Cell]] = [
        {"code": kind, "condition": how, "printed": len(found), "hidden": sum(found)}
        for (kind, how), found in hidden.items()
    ]
    folder = setting.data / "cxr" / "images"
    scans = sorted(folder.iterdir())[::_SCANS][: setting.files] if folder.is_dir() else []
    for scan in scans:
        seen = detector.find(decode(scan.read_bytes()).pixels)
        hidden["none", ""].append(bool(seen))
    if not scans:
        return Table("codes in pictures", tuple(rows), "no X-rays to invent codes in (--data)")
    invented = sum(hidden["none", ""])
    note = f"codes seen in {invented} of {len(scans)} chest X-rays, none of which has one"
    return Table("codes in pictures", tuple(rows), note)


def reviewed(profile: PrivacyProfile, user: User) -> Table:
    """The profile's detectors, judged by what reviewers released. Needs the database."""
    judged = reviewed_boxes(profile, actor=user, purpose=Purpose.ADMINISTRATION)
    rows: list[dict[str, Cell]] = [
        {
            "kind": one.kind.value,
            "images": one.images,
            "found": one.found,
            "missed": one.missed,
            "wrong": one.wrong,
            "recall": None if one.recall is None else round(one.recall, _DIGITS),
            "precision": None if one.precision is None else round(one.precision, _DIGITS),
        }
        for one in judged
    ]
    note = "images that had been in review: the hard ones; no rates of all images"
    return Table("as reviewers judged", tuple(rows), note)


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
        if action != "pixels_hidden"  # of the next table: these have no words in their pixels
    ]
    return Table("DICOM headers, by action", tuple(rows), "never averaged; – where none was due")


def burned_words(setting: Setting) -> Table:
    """A word in all frames of each DICOM image, de-identified as by the command."""
    clinical, mapping = PROFILES["clinical"], Mapping(bytes(32))
    detectors = detectors_for(clinical)

    def deidentified(content: bytes) -> Covered:
        _, covered, _ = deidentify_content(content, clinical, detectors, mapping)
        return covered

    score = burned.score(islice(burned.burn(_SEED), setting.files), deidentified)
    due = score.objects - score.held_back
    rows: list[dict[str, Cell]] = [
        {"action": action, "due": due, "right": right, "share": right / due if due else None}
        for action, right in (
            ("pixels_hidden", score.hidden),
            ("pixels_retained", score.retained),
        )
    ]
    note = f"{score.objects} objects, of which {score.held_back} wait for a person, without a file"
    return Table("words burned into DICOM pixels", tuple(rows), note)


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
