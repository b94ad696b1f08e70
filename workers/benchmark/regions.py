"""A small thing in a large picture: found by the whole, by its corners, by what a detector sees.

Each scene is a photograph with another one's square pasted into it at a place by chance, so that
nothing around it hints at it. It is looked for by that square, by words about it, and by the
photograph as it was. Photographs are enlarged first: what is pasted keeps its own detail, as a
small thing in a camera's picture has. Detectors are those of CLOISTER_DETECTORS that find objects.
"""

import csv
import io
import random
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from retrieval.models.image import Region
from workers.benchmark.table import Cell, Setting, Table
from workers.deidentify.faces.added import AddedDetector
from workers.encode import regions
from workers.encode.encoder import Encoder, Pixels, Vectors, encode_all
from workers.encode.registry import EMBEDDED, load

_PICTURES = Path(skimage.__file__).parent / "data"
_SCENES = 400
_SEED = 7
_SHARE = 0.25
_SIDE = 672  # pixels of a scene's shorter side
_TOLD = 10
_WAYS = ("whole", "corners", "corners and objects")


@dataclass(frozen=True)
class _Photograph:
    pixels: Pixels
    words: str


@dataclass(frozen=True)
class _Scene:
    """pixels: with `pasted`, scaled down, at `place`. words: about what was pasted, or none."""

    pixels: Pixels
    before: Pixels
    pasted: Pixels
    place: Region
    words: str


@dataclass(frozen=True)
class _Seen:
    """The parts of a scene, the whole first, with their vectors; for each of _WAYS how many of them
    it has, and its processor seconds."""

    parts: list[Region]
    vectors: Vectors
    counts: tuple[int, ...]
    seconds: tuple[float, ...]


def tables(setting: Setting) -> Iterator[Table]:
    encoder, detectors = load(EMBEDDED), regions.object_detectors()
    photographs, source = _photographs(setting)
    scenes = _scenes(photographs)
    _see(encoder, scenes[0], detectors)
    seen = [_see(encoder, scene, detectors) for scene in scenes]
    asked = {
        "square": encode_all(encoder, [scene.pasted for scene in scenes]),
        "scene": encode_all(encoder, [scene.before for scene in scenes]),
    }
    if all(scene.words for scene in scenes):
        asked["words"] = encoder.encode_texts([scene.words for scene in scenes])
    ways = range(len(_WAYS) if detectors else len(_WAYS) - 1)
    yield Table(
        f"small things, {_SHARE:.0%} of the shorter side",
        tuple(_found(way, kind, scenes, seen, asked[kind]) for kind in asked for way in ways),
        f"{len(scenes)} scenes of pictures from {source}, seed {_SEED}"
        + ("" if detectors else "; CLOISTER_DETECTORS has no detector of objects"),
    )
    yield Table("their cost, each image", tuple(_cost(way, seen) for way in ways))


def _found(
    way: int, kind: str, scenes: Sequence[_Scene], seen: Sequence[_Seen], queries: Vectors
) -> dict[str, Cell]:
    """Recall by one kind of query; how often the box told with a scene among the first has the
    square."""
    similar = [queries @ each.vectors[: each.counts[way]].T for each in seen]
    scores = np.stack([parts.max(axis=1) for parts in similar], axis=1)
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
    boxes = [
        each.parts[int(parts[at].argmax())]
        for at, (each, parts) in enumerate(zip(seen, similar, strict=True))
    ]
    told = [
        _holds(box, scene.place)
        for box, each, scene, rank in zip(boxes, seen, scenes, ranks, strict=True)
        if rank < _TOLD and box != each.parts[0]
    ]
    return {
        "asked by": kind,
        "vectors of": _WAYS[way],
        **{f"recall@{k}": round(float((ranks < k).mean()), 3) for k in (1, 5, _TOLD)},
        "boxes told": len(told),
        "with the square": sum(told),
    }


def _cost(way: int, seen: Sequence[_Seen]) -> dict[str, Cell]:
    return {
        "vectors of": _WAYS[way],
        "rows": round(float(np.mean([each.counts[way] for each in seen])), 2),
        "processor ms": round(1000 * float(np.mean([each.seconds[way] for each in seen]))),
    }


def _holds(box: Region, place: Region) -> bool:
    x, y = place.x + place.w / 2, place.y + place.h / 2
    return box.x <= x <= box.x + box.w and box.y <= y <= box.y + box.h


def _see(encoder: Encoder, scene: _Scene, detectors: Sequence[AddedDetector]) -> _Seen:
    height, width = scene.pixels.shape[:2]
    whole = [Region(0, 0, width, height)]
    started = time.process_time()
    corners = regions.parts_of(scene.pixels, (), encoder.side)
    parts: list[Region] = []
    vectors: list[Vectors] = []
    counts, seconds = [], []
    for way in _WAYS:
        if way == "whole":
            chosen = whole
        elif way == "corners":
            chosen = corners
        else:
            chosen = regions.parts_of(scene.pixels, detectors, encoder.side)[len(corners) :]
        rows = encode_all(encoder, [regions.cut(scene.pixels, part) for part in chosen])
        vectors.append(regions.leaning(rows, vectors[0][0]) if vectors else rows)
        parts += chosen
        counts.append(len(parts))
        seconds.append(time.process_time() - started)
    return _Seen(parts, np.concatenate(vectors), tuple(counts), tuple(seconds))


def _scenes(photographs: Sequence[_Photograph]) -> list[_Scene]:
    """Half of the photographs, each with one of the other half pasted in."""
    chance = random.Random(_SEED)  # noqa: S311  repeatable
    shuffled = chance.sample(photographs, len(photographs))
    half = len(shuffled) // 2
    return [
        _pasted(scene.pixels, thing, chance)
        for scene, thing in zip(shuffled[:half], shuffled[half : 2 * half], strict=True)
    ]


def _pasted(before: Pixels, thing: _Photograph, chance: random.Random) -> _Scene:
    height, width = thing.pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = thing.pixels[top : top + edge, left : left + edge]
    before = enlarged(before)
    height, width = before.shape[:2]
    side = round(_SHARE * _SIDE)
    place = Region(chance.randrange(width - side), chance.randrange(height - side), side, side)
    pixels = before.copy()
    small = Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS)
    regions.cut(pixels, place)[:] = np.asarray(small)
    return _Scene(pixels, before, square, place, thing.words)


def _photographs(setting: Setting) -> tuple[list[_Photograph], str]:
    """Two for each scene."""
    count = 2 * min(_SCENES, setting.files or _SCENES)
    folder = setting.data / "flickr8k"
    if not (folder / "val.zip").is_file():
        ours = sorted(_PICTURES.glob("*.[jp][pn]g"))[:count]
        return [_Photograph(read(path.read_bytes()), "") for path in ours], "a wheel"
    with (folder / "val.tsv").open(newline="", encoding="utf-8") as table:
        captions = {row["file"]: row["caption"] for row in csv.DictReader(table, delimiter="\t")}
    chosen = random.Random(_SEED).sample(sorted(captions), count)  # noqa: S311  repeatable
    with zipfile.ZipFile(folder / "val.zip") as archive:
        return [
            _Photograph(read(archive.read(name)), captions[name]) for name in chosen
        ], folder.name


def enlarged(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    scale = _SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def read(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))
