"""What a run reads: the private collection, and the public data everything else is tuned on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Unit(StrEnum):
    """Whom the guarantee is for: all images of one subject together, or one image."""

    SUBJECT = "subject"
    IMAGE = "image"


@dataclass(frozen=True)
class Public:
    """Pairs nobody needs protecting from: means, spreads, anchors and choices come from here.

    images: (P, d) features of the frozen image tower; texts: (P, t) of the frozen text tower,
    one row per image (the mean of its captions, or its class's prototype).
    """

    images: Floats
    texts: Floats


@dataclass(frozen=True)
class Private:
    """The collection to train on. Rows are images; `unit_of` says which unit each belongs to.

    images: (N, d); texts: (N, t); unit_of: (N,) int64 in [0, units), every unit at least once.
    Build it with `collect`, which bounds each subject's share.
    """

    images: Floats
    texts: Floats
    unit_of: NDArray[np.int64]
    unit: Unit
    units: int

    @property
    def digest(self) -> str:
        """sha256 over shapes, numbers and units: the certificate names the data by it."""
        found = hashlib.sha256(f"{self.unit} {self.images.shape} {self.texts.shape}".encode())
        for array in (self.images, self.texts, self.unit_of):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def collect(
    images: Floats, texts: Floats, subjects: Sequence[str] | None, *, images_per_subject: int = 8
) -> Private:
    """Group rows by subject and keep at most `images_per_subject` of each.

    Which ones are kept depends on the subject's own rows only (their order), so another
    subject's coming or going changes nothing here. Without subjects each image is a unit of
    its own: somebody with many images is then protected for each of them, not for all.
    """
    if len(images) != len(texts) or (subjects is not None and len(subjects) != len(images)):
        raise ValueError("images, texts and subjects differ in length")
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise ValueError("a feature is not finite")
    if subjects is None:
        rows, unit_of = np.arange(len(images)), np.arange(len(images))
        return Private(_f32(images[rows]), _f32(texts[rows]), unit_of, Unit.IMAGE, len(images))
    seen: dict[str, int] = {}
    counts: dict[str, int] = {}
    kept, owners = [], []
    for row, subject in enumerate(subjects):
        number = seen.setdefault(subject, len(seen))
        counts[subject] = counts.get(subject, 0) + 1
        if counts[subject] <= images_per_subject:
            kept.append(row)
            owners.append(number)
    unit_of = np.asarray(owners, np.int64)
    return Private(_f32(images[kept]), _f32(texts[kept]), unit_of, Unit.SUBJECT, len(seen))


def _f32(array: NDArray[np.floating]) -> Floats:
    return np.ascontiguousarray(array, np.float32)
