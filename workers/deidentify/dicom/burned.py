"""Known words burned into the pixels of the corpus' files, and whether they are hidden afterwards.

Words are drawn with Pillow's own font, 12 to 18 px, with the stored value that stands out most from
what is around them once the frame is shown: a palette's last colour may look like its first, and
the highest value of MONOCHROME1 is black.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import UID

from retrieval.errors import Rejected
from workers.decode.stored import Stretch, stored_frames
from workers.deidentify.dicom import header, pixels
from workers.deidentify.dicom.corpus import wheel_files
from workers.deidentify.dicom.pixels import Covered, Mask

_FONT_PX = (12, 14, 16, 18)
_WORDS = ("K4711029", "12.03.2019", "OAKHURST^THADDEUS", "MRN 90210", "Brightwater P.")
_MIN_SIDE = 64
_MAX_FRAMES = 30
# Grey levels between words and what is around them.
_MIN_CONTRAST = 60
_HIDDEN = 0.9


@dataclass(frozen=True)
class Burned:
    """An object with words in its pixels. ink: (H, W), where; values: (N, H, W[, 3]) with them."""

    name: str
    content: bytes = field(repr=False)
    ink: Mask = field(repr=False)
    values: npt.NDArray[np.generic] = field(repr=False)


@dataclass(frozen=True)
class Score:
    """held_back: objects that wait for a person; their words are hidden, too. missed: names.

    hidden, retained: of the others, those whose word is gone and whose other pixels are as before.
    """

    objects: int
    held_back: int
    hidden: int
    retained: int
    missed: tuple[str, ...]


def burn(seed: int) -> Iterator[Burned]:
    """Yield every file of the wheel that can carry a word, with one word in all its frames."""
    chance = random.Random(seed)  # noqa: S311 - a corpus is to be the same every time
    for path in wheel_files():
        if path.is_file() and (burned := _burned(path, chance)):
            yield burned


def score(cases: Iterable[Burned], deidentify: Callable[[bytes], Covered]) -> Score:
    """Count what became of each word, and whether pixels beside the covers kept their values."""
    counts: Counter[str] = Counter()
    missed: list[str] = []
    for case in cases:
        counts["objects"] += 1
        result = deidentify(case.content)
        if result.content is None:
            counts["held_back"] += 1
            continue
        after = np.concatenate([part.values for part in stored_frames(result.content)])
        is_hidden, is_retained = _compare(case, after)
        counts["pixels_hidden"] += is_hidden
        counts["pixels_retained"] += is_retained
        if not (is_hidden and is_retained):
            missed.append(case.name)
    return Score(
        counts["objects"],
        counts["held_back"],
        counts["pixels_hidden"],
        counts["pixels_retained"],
        tuple(missed),
    )


def _compare(case: Burned, after: npt.NDArray[np.generic]) -> tuple[bool, bool]:
    """Return whether the word lies under one value, and whether nothing else changed."""
    down, across = np.nonzero(case.ink)
    box = np.s_[:, down.min() : down.max() + 1, across.min() : across.max() + 1]
    flat = after[box].reshape(-1, *after.shape[3:])
    values, counts = np.unique(flat, axis=0, return_counts=True)
    cover = values[counts.argmax()]
    changed = after != case.values
    is_cover = after == cover
    return bool(counts.max() >= _HIDDEN * len(flat)), bool((is_cover | ~changed).all())


def _burned(path: Path, chance: random.Random) -> Burned | None:
    content = path.read_bytes()
    try:
        stretches = list(stored_frames(content))
    except Rejected:
        return None
    height, width = stretches[0].shown.shape[1:3]
    if min(height, width) < _MIN_SIDE or stretches[0].frames > _MAX_FRAMES:
        return None
    size = chance.choice(_FONT_PX) if width > 2 * _MIN_SIDE else _FONT_PX[0]
    ink = _ink(chance.choice(_WORDS) if width > 2 * _MIN_SIDE else _WORDS[0], size, height, width)
    try:
        tried = [_with_ink(content, stretches, ink, value) for value in _candidates(stretches)]
    except Exception:  # noqa: BLE001 - an odd file that cannot be written; there are enough others
        return None
    contrast, best, values = max(tried, key=lambda one: one[0])
    return Burned(path.name, best, ink, values) if contrast >= _MIN_CONTRAST else None


def _ink(word: str, size: int, height: int, width: int) -> Mask:
    """Return where a word stands, in the lower left, as far as it fits."""
    picture = Image.new("L", (width, height))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text((4, height - 2 * size), word, 255, font)
    return np.asarray(picture) > 127  # noqa: PLR2004 - half of the ink


def _candidates(stretches: list[Stretch]) -> list[npt.NDArray[np.generic]]:
    values = np.concatenate([stretch.values for stretch in stretches])
    if values.ndim == 4:  # noqa: PLR2004
        high = 2 ** stretches[0].bits_stored - 1
        light = (high, 128, 128) if stretches[0].photometric == "YBR_FULL" else (high,) * 3
        return [np.array(light).astype(values.dtype)]
    if stretches[0].photometric == "PALETTE COLOR":
        present = np.unique(values)
        return list(present[:: max(1, len(present) // 8)])
    return [values.min(), values.max()]


def _with_ink(
    content: bytes, stretches: list[Stretch], ink: Mask, value: npt.NDArray[np.generic]
) -> tuple[float, bytes, npt.NDArray[np.generic]]:
    """Return the contrast of a word as shown, the object with it, and its values."""
    inked = [replace(stretch, values=stretch.values.copy()) for stretch in stretches]
    for stretch in inked:
        stretch.values[:, ink] = value
    dataset = header.read(content)
    dataset.BurnedInAnnotation = "YES"
    pixels.set_pixels(dataset, inked, np.zeros_like(ink))
    dataset.file_meta.MediaStorageSOPClassUID = UID(dataset.get("SOPClassUID") or "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.get("SOPInstanceUID") or "1.2.3")
    written = header.write(dataset)
    shown = next(stored_frames(written)).shown[0].mean(axis=2)
    down, across = np.nonzero(ink)
    box = np.s_[down.min() : down.max() + 1, across.min() : across.max() + 1]
    inside, around = shown[box][ink[box]], shown[box][~ink[box]]
    contrast = abs(float(np.median(inside)) - float(np.median(around)))
    return contrast, written, np.concatenate([stretch.values for stretch in inked])
