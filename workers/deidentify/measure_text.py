"""Plant words at known places over pictures, and count what the text detector makes of them.

    python -m workers.deidentify.measure_text [FOLDER] [--rounds N]

plants into the pictures of pydicom's wheel, or into those of FOLDER, and prints one JSON document.
"""

import json
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file

from workers.decode.sandbox import decode
from workers.deidentify.marks import Mark, Pixels, cover_marks
from workers.deidentify.text import RapidText, TextDetector

# A word counts as located once so much of its ink is covered.
LOCATED_INK = 0.9
# Grey levels between faint writing and what it is written on.
FAINT_LEVELS = (20, 40)

# What a stroke must change for a pixel to count as ink.
_VISIBLE_LEVELS = 10

_ANATOMY = (
    "693_J2KI.dcm",
    "CT_small.dcm",
    "MR_small.dcm",
    "examples_jpeg2k.dcm",
    "examples_overlay.dcm",
    "examples_ybr_color.dcm",
    "image_dfl.dcm",
)
_MIN_SIDE = 512
_SIZES = (10, 12, 14, 16, 18, 20, 24, 28, 32)
_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansCondensed.ttf",
)
_NAMES = ("MUELLER", "Okonkwo", "Garcia", "NGUYEN", "Schmidt", "Ivanova", "TANAKA", "O'Brien")
_GIVEN = ("Jane", "JOHN", "Maria", "Wei", "Fatima", "LARS", "Aisha", "Peter")


@dataclass(frozen=True)
class Planted:
    """One word in a picture. ink: (H, W) bool, the pixels it changed. size: of its font, in px."""

    words: str
    size: int
    manner: str
    turned: str
    ink: npt.NDArray[np.bool_]


@dataclass
class Tally:
    """Counts over planted words."""

    planted: int = 0
    located: int = 0

    def add(self, located: bool) -> None:
        self.planted += 1
        self.located += located


def anatomy() -> Iterator[Pixels]:
    """Yield pydicom's own images, at least _MIN_SIDE a side, so that words of 32 px fit."""
    for name in _ANATOMY:
        path = get_testdata_file(name, download=False)
        if isinstance(path, str):
            yield _enlarged(decode(Path(path).read_bytes()).pixels)


def pictures(folder: Path) -> Iterator[Pixels]:
    """Yield every picture of a folder."""
    for path in sorted(folder.iterdir()):
        yield _enlarged(decode(path.read_bytes()).pixels)


def plant(pixels: Pixels, chance: random.Random, count: int = 10) -> tuple[Pixels, list[Planted]]:
    """Return a copy of `pixels` with up to `count` words apart from each other, and the words."""
    written, planted = pixels.copy(), []
    taken = np.zeros(pixels.shape[:2], bool)
    for _ in range(count):
        words, size = _words(chance), chance.choice(_SIZES)
        turned = chance.choices(("level", "upright", "slanted"), (8, 1, 1))[0]
        angle = {"level": 0.0, "upright": chance.choice((90.0, 270.0))}.get(
            turned, chance.uniform(-40, 40)
        )
        stamp = _stamp(words, _font(chance.randrange(len(_FONTS) + 1), size), angle)
        height, width = stamp.shape
        for _ in range(50):
            if height >= pixels.shape[0] or width >= pixels.shape[1]:
                break
            top = chance.randrange(pixels.shape[0] - height)
            left = chance.randrange(pixels.shape[1] - width)
            area = (slice(top, top + height), slice(left, left + width))
            if not taken[area].any():
                break
        else:
            continue
        if height >= pixels.shape[0] or width >= pixels.shape[1]:
            continue
        taken[area] = True
        manner = chance.choices(("clear", "faint"), (7, 3))[0]
        below = written[area].astype(np.float32)
        level = float(np.median(below))
        if manner == "clear":
            colour = 255.0 if level < 110 else 0.0  # noqa: PLR2004 - whichever can be seen
        else:
            difference = chance.uniform(*FAINT_LEVELS)
            colour = level + difference if level < 128 else level - difference  # noqa: PLR2004
        share = stamp[..., None].astype(np.float32) / 255
        after = (below * (1 - share) + colour * share).clip(0, 255).round()
        written[area] = after
        ink = np.zeros(pixels.shape[:2], bool)
        ink[area] = np.abs(after - below).max(axis=2) >= _VISIBLE_LEVELS
        planted.append(Planted(words, size, manner, turned, ink))
    return written, planted


def measure(
    pictures: Iterable[Pixels], detector: TextDetector, *, seed: int = 1, rounds: int = 1
) -> dict[str, object]:
    """Plant, find, cover and read again.

    Returns shares in [0, 1] of words located, by size and manner; words that can still be read
    anywhere after covering; the share of wordless area that is covered, and of each picture as it
    came, with what was written there before; processor seconds a megapixel for the first look.
    """
    chance = random.Random(seed)  # noqa: S311 - to be the same again
    tallies: dict[str, Tally] = {}
    readable = 0
    blank = falsely = 0
    seconds = megapixels = 0.0
    as_they_came = []
    for original in pictures:
        before = _hidden(original.shape, detector.find(original))
        as_they_came.append(round(float(before.mean()), 4))
        for _ in range(rounds):
            written, planted = plant(original, chance)
            started = time.process_time()
            marks = detector.find(written)
            seconds += time.process_time() - started
            megapixels += written.shape[0] * written.shape[1] / 1e6
            hidden = _hidden(written.shape, marks)
            near = np.zeros(written.shape[:2], np.uint8)
            for word in planted:
                located = float(hidden[word.ink].mean()) >= LOCATED_INK
                for name in _rows(word):
                    tallies.setdefault(name, Tally()).add(located)
                near |= word.ink
            near = cv2.dilate(near, np.ones((41, 41), np.uint8)).astype(bool)
            blank += int((~near).sum())
            falsely += int((hidden & ~near).sum())
            readable += _still_read(cover_marks(written, marks), planted, detector)
    return {
        "located": {
            name: {"words": t.planted, "share": round(t.located / t.planted, 4)}
            for name, t in sorted(tallies.items())
        },
        "readable_after_covering": readable,
        "wordless_area_covered": round(falsely / max(1, blank), 4),
        "covered_as_they_came": as_they_came,
        "cpu_seconds_per_megapixel": round(seconds / max(megapixels, 1e-9), 2),
    }


def _rows(word: Planted) -> Iterator[str]:
    if word.size >= 12:  # noqa: PLR2004 - the smallest size the goal speaks of
        yield f"{word.manner}, 12 px and more"
        yield f"{word.manner}, 12 px and more, {word.turned}"
    yield f"{word.manner}, {word.size} px"


def _hidden(shape: tuple[int, ...], marks: tuple[Mark, ...]) -> npt.NDArray[np.bool_]:
    white = np.full((shape[0], shape[1], 3), 255, np.uint8)
    return np.asarray(cover_marks(white, marks)[..., 0] == 0)


def _still_read(covered: Pixels, planted: list[Planted], detector: TextDetector) -> int:
    """Count planted words that are among what is read after covering."""
    readings = (detector.read(covered, mark) for mark in detector.find(covered))
    read = " ".join(_plain(reading.words) for reading in readings)
    return sum(any(_plain(part) in read for part in word.words.split()) for word in planted)


def _plain(words: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", words.lower())


def _words(chance: random.Random) -> str:
    number = chance.randrange(10**6, 10**8)
    year, month, day = chance.randint(1930, 2024), chance.randint(1, 12), chance.randint(1, 28)
    kinds = (
        f"{chance.choice(_NAMES)}, {chance.choice(_GIVEN)}",
        f"{chance.choice(_GIVEN)} {chance.choice(_NAMES)}",
        chance.choice(_NAMES),
        f"MRN {number}",
        f"{number}",
        f"{day:02}.{month:02}.{year}",
        f"DOB {year}-{month:02}-{day:02}",
        f"ACC{number}",
    )
    return chance.choice(kinds)


@cache
def _font(number: int, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return one of the machine's fonts; Pillow's own where there is none of that name."""
    try:
        return ImageFont.truetype(_FONTS[number], size)
    except (IndexError, OSError):
        return ImageFont.load_default(size)


def _stamp(
    words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, angle: float
) -> npt.NDArray[np.uint8]:
    """Return the words as (h, w) uint8 shares of ink, turned by `angle` degrees."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(words))
    layer = Image.new("L", (right - left + 4, bottom - top + 4), 0)
    ImageDraw.Draw(layer).text((2 - left, 2 - top), words, fill=255, font=font)
    return np.asarray(layer.rotate(angle, Image.Resampling.BICUBIC, expand=True))


def _enlarged(pixels: Pixels) -> Pixels:
    factor = max(1.0, _MIN_SIDE / min(pixels.shape[:2]))
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def main() -> None:
    """Print one measurement."""
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.isdecimal()]
    rounds = next((int(argument) for argument in sys.argv[1:] if argument.isdecimal()), 3)
    source = pictures(folders[0]) if folders else anatomy()
    print(json.dumps(measure(source, RapidText(), rounds=rounds), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
