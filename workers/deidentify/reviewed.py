"""Boxes as a reviewer left them: from and to rows, and onto the pixels."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from retrieval.models import BoxKind, Image, ReviewBox, Source
from workers.deidentify.faces import Face
from workers.deidentify.marks import Mark
from workers.deidentify.verdict import Boxes, Profile, cover_all

Pixels = npt.NDArray[np.uint8]

DRAWN = "reviewer"
"""What stands in the place of a detector's name where a person drew the box."""


def cover_reviewed(pixels: Pixels, rows: Iterable[ReviewBox], profile: Profile) -> Pixels:
    """Return a copy of one (H, W, 3) uint8 RGB picture with every row's box covered.

    Solid, whatever the profile says: a further mosaic of one face would be a further set of its
    averages. What a detector found has the profile's margin; what a person drew is as drawn.
    """
    rows = list(rows)
    solid = replace(profile, cover="solid")
    covered = cover_all(
        pixels, boxes_of(row for row in rows if row.source == Source.DETECTOR), solid
    )
    for row in rows:
        if row.source == Source.REVIEWER:
            x, y, w, h = row.box
            covered[y : y + h, x : x + w] = 0
    return covered


def boxes_of(rows: Iterable[ReviewBox]) -> Boxes:
    """The boxes behind rows; a drawn one counts as found for sure."""
    rows = list(rows)
    return Boxes(
        faces=tuple(_face(row) for row in rows if row.kind == BoxKind.FACE),
        text=tuple(_mark(row) for row in rows if row.kind == BoxKind.TEXT),
        codes=tuple(_mark(row) for row in rows if row.kind == BoxKind.CODE),
    )


def rows_of(boxes: Boxes, image: Image, source: Source) -> Iterator[ReviewBox]:
    """Rows for what was found in an image whose size is known, not yet stored."""
    height, width = image.height or 0, image.width or 0
    found: list[Face | Mark] = [*boxes.faces, *boxes.text, *boxes.codes]
    for one in found:
        yield ReviewBox(
            image=image,
            collection_id=image.collection_id,
            kind=BoxKind(one.kind) if isinstance(one, Mark) else BoxKind.FACE,
            box=[int(s) for s in (one.box(height, width) if isinstance(one, Mark) else one.box)],
            corners=[int(s) for c in one.corners for s in c] if isinstance(one, Mark) else None,
            score=round(float(one.score), 3),
            detector=one.detector,
            source=source,
            render=image.render,
        )


def _face(row: ReviewBox) -> Face:
    x, y, w, h = row.box
    return Face((x, y, w, h), _score(row), row.detector or DRAWN)


def _mark(row: ReviewBox) -> Mark:
    x, y, w, h = row.box
    right, bottom = x + w - 1, y + h - 1
    around = (x, y, right, y, right, bottom, x, bottom)
    a, b, c, d, e, f, g, i = row.corners or around
    corners = ((a, b), (c, d), (e, f), (g, i))
    return Mark(
        corners,
        _score(row),
        "code" if row.kind == BoxKind.CODE else "text",
        row.detector or DRAWN,
    )


def _score(row: ReviewBox) -> float:
    return 1.0 if row.score is None else row.score
