"""What a run reads of a collection: its stored vectors, and the words an administrator brings.

The vectors are those the base encoder made of the de-identified previews when the images were
indexed: no pixel is read again, and an interrupted run finds the same numbers.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from retrieval import access, index, keys, storage
from retrieval.errors import CaptionsUnreadable, ModelRefused, NoTextTower
from retrieval.models import EncoderVersion, Image, State, Subject
from workers.encode.encoder import Encoder
from workers.finetune.data import Floats, Private, collect
from workers.finetune.run import HeldOut

TEMPLATES = ("a photograph of {}", "an image showing {}", "{}")
"""A label becomes these words, and their mean its prototype: one template says less than several
(Radford et al. 2021, arXiv 2103.00020, section 3.1.4)."""
TEXTS_AT_ONCE = 64
MAX_CAPTIONS_BYTES = 256 * 1024 * 1024

Words = dict[str, list[str]]
"""By a file's name, its last part, or an image's id: what is said of it, in the file's order."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Gathered:
    """A collection ready to train on, and what was left out of it."""

    private: Private
    held_out: HeldOut
    images: int  # with words and a subject, held out or trained on
    held_out_units: int
    without_words: int
    without_subject: int
    unknown: int  # names in the file of captions that no indexed image has


@dataclass(frozen=True)
class _Known:
    """An indexed image and what it may be called."""

    image: Image
    names: frozenset[str]


def read_words(path: Path) -> Words:
    """Tab-separated with the header `file`, `caption` or `file`, `label`; several rows per file.

    Raises CaptionsUnreadable with the number of the first wrong line.
    """
    try:
        if path.stat().st_size > MAX_CAPTIONS_BYTES:
            raise CaptionsUnreadable(f"a file of captions has at most {MAX_CAPTIONS_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = _words(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise CaptionsUnreadable("the file of captions cannot be read") from error
    if not found:
        raise CaptionsUnreadable("the file of captions holds none")
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises CaptionsUnreadable."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionsUnreadable("a file of texts cannot be read") from error
    return [line.strip() for line in lines if line.strip()]


def gather(
    collection_id: int,
    version: EncoderVersion,
    encoder: Encoder,
    words: Words,
    *,
    is_held_out: Callable[[str], bool],
    progress: Progress = lambda _done, _of: None,
) -> Gathered:
    """Join stored vectors of `version` with `words`, by subject; as a worker's role.

    is_held_out: told a unit's id; the units it names are never trained on, by any run that asks
    the same. Raises CaptionsUnreadable where too little is left or a name is of several images,
    ModelRefused where images have no vector yet or the encoder reads no texts.
    """
    with access.processing(collection_id):
        vectors = index.vectors_of(collection_id, encoder=version)
        images = list(
            Image.objects.filter(collection=collection_id, state=State.INDEXED).order_by("pk")
        )
        by_subject = Subject.objects.filter(collection=collection_id).exists()
    if missing := sum(image.pk not in vectors for image in images):
        raise ModelRefused(f"{missing} images have no vector of encoder {version.pk}: fill it")
    said, unknown, ambiguous = _match([_Known(i, _names(i)) for i in images], words)
    if ambiguous:
        # Leaving them out would let one subject's coming take others' images from the training.
        raise CaptionsUnreadable(
            f"{ambiguous} names in the file are of several images: name those by path or id"
        )
    told = [image for image in images if image.pk in said]
    chosen = [image for image in told if image.subject_id is not None or not by_subject]
    if not by_subject:
        chosen = _one_per_video(chosen)
    units = [str(image.subject_id if by_subject else image.pk) for image in chosen]
    apart = {unit: is_held_out(unit) for unit in units}
    if not apart or all(apart.values()) or not any(apart.values()):
        raise CaptionsUnreadable(
            f"{len(chosen)} images of {len(apart)} units have words: too few to train on some and"
            " measure on others"
        )
    embedded = _embed(encoder, [said[image.pk] for image in chosen], progress)
    features = np.stack([vectors[image.pk] for image in chosen])
    means = np.stack([rows.mean(0) for rows in embedded])
    out = np.array([apart[unit] for unit in units])
    subjects = units if by_subject else None
    return Gathered(
        private=_collect(features, means, subjects, ~out),
        held_out=HeldOut(
            features[out],
            np.concatenate([rows for rows, held in zip(embedded, out, strict=True) if held]),
            _owners([rows for rows, held in zip(embedded, out, strict=True) if held]),
            _collect(features, means, subjects, out),
        ),
        images=len(chosen),
        held_out_units=sum(apart.values()),
        without_words=len(images) - len(told),
        without_subject=len(told) - len(chosen),
        unknown=unknown,
    )


def in_share(share: float) -> Callable[[str], bool]:
    """Hold out about `share` of all units: by a keyed hash, so a unit's lot never changes, nobody
    without the key file knows it, and a larger share holds out all that a smaller one does."""
    return lambda unit: int(keys.keyed_hash(unit, use="held-out units")[:13], 16) < share * 16**13


def _words(rows: csv.DictReader[str]) -> Words:
    columns = rows.fieldnames or ()
    column = next((name for name in ("caption", "label") if name in columns), None)
    if "file" not in columns or column is None:
        raise CaptionsUnreadable("the first line must name the columns file and caption or label")
    found: Words = defaultdict(list)
    for row in rows:
        name, text = (row["file"] or "").strip(), (row[column] or "").strip()
        if not name or not text:
            raise CaptionsUnreadable(f"line {rows.line_num} lacks a file or its words")
        text = _unquoted(text)
        found[name] += [text] if column == "caption" else in_words(text)
    return dict(found)


def _unquoted(text: str) -> str:
    """A field as spreadsheets write it. One quotation mark alone begins no field of many lines."""
    if len(text) > 2 and text[0] == text[-1] == '"':  # noqa: PLR2004 - a mark at either end
        return text[1:-1].replace('""', '"')
    return text


def in_words(label: str) -> list[str]:
    return [template.format(label) for template in TEMPLATES]


def _names(image: Image) -> frozenset[str]:
    name = storage.source_name(image)
    return frozenset({str(image.pk), name, PurePosixPath(name.replace("\\", "/")).name})


def _one_per_video(images: Sequence[Image]) -> list[Image]:
    """A video's frames show the same: as units of their own they would be protected apart."""
    first: dict[object, Image] = {}
    for image in images:
        first.setdefault(image.video_id or image.pk, image)
    return list(first.values())


def _match(known: Sequence[_Known], words: Words) -> tuple[dict[object, list[str]], int, int]:
    """What is said of each image, by its id; how many names nobody has, how many several have."""
    owners: dict[str, list[object]] = defaultdict(list)
    for one in known:
        for name in one.names:
            owners[name].append(one.image.pk)
    said: dict[object, list[str]] = defaultdict(list)
    counted: Counter[int] = Counter()
    for name, texts in words.items():
        found = owners.get(name, [])
        counted[min(len(found), 2)] += 1
        if len(found) == 1:
            said[found[0]] += texts
    return dict(said), counted[0], counted[2]


def _embed(encoder: Encoder, texts: Sequence[list[str]], progress: Progress) -> list[Floats]:
    """Per image its texts' vectors, (texts, dimensions). Equal texts are read once."""
    distinct = list(dict.fromkeys(text for some in texts for text in some))
    vectors: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        chunk = distinct[start : start + TEXTS_AT_ONCE]
        vectors |= dict(zip(chunk, embed_texts(encoder, chunk), strict=True))
        progress(len(vectors), len(distinct))
    return [np.stack([vectors[text] for text in some]) for some in texts]


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """(N, dimensions). Raises ModelRefused where the encoder has no text tower."""
    try:
        return encoder.encode_texts(texts)
    except NoTextTower as error:
        raise ModelRefused(
            "that encoder reads images only: there are no words to train it towards"
        ) from error


def _collect(
    images: Floats, texts: Floats, subjects: list[str] | None, chosen: NDArray[np.bool_]
) -> Private:
    rows = np.flatnonzero(chosen)
    return collect(
        images[rows], texts[rows], None if subjects is None else [subjects[row] for row in rows]
    )


def _owners(embedded: Iterable[Floats]) -> NDArray[np.int64]:
    return np.concatenate(
        [np.full(len(rows), number, np.int64) for number, rows in enumerate(embedded)]
    )
