"""Decide whether a picture may leave: find, cover, look again, and when in doubt ask a person."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from django.conf import settings

from retrieval.errors import Reason
from workers.decode.sandbox import Decoded
from workers.deidentify.faces import Face, FaceDetector, Pixels, union
from workers.deidentify.obscure import (
    DEFAULT_MARGIN,
    MAX_CELLS,
    MIN_MARGIN,
    Style,
    cover,
    lies_under_covers,
)

# Scores above which a detector may look away. Above it, one face in twenty goes unseen.
MAX_DETECTION_THRESHOLD = 0.3

# DICOM modalities whose devices write nothing into the pixels. All others do or may: ultrasound,
# endoscopes, cameras, microscopes, angiography, scanned film; and one we do not know is no reason
# to trust it.
_MODALITIES_WITHOUT_TEXT = frozenset(
    {"CT", "MR", "PT", "NM", "CR", "DX", "MG", "PX", "IO", "SEG", "RTDOSE", "OCT", "BMD"}
)
_DICOM = "application/dicom"


@dataclass(frozen=True)
class Profile:
    """How a collection is de-identified. It can be stricter than the floor, never laxer.

    cover: "solid" or "mosaic". mosaic_cells: 1 to 6 along each side. margin: at least 0.1 of a
    face's longer side. detection_threshold: score in (0, 0.3] from which something is a face.
    Raises ValueError below the floor.
    """

    name: str
    cover: Style = "solid"
    mosaic_cells: int = MAX_CELLS
    margin: float = DEFAULT_MARGIN
    detection_threshold: float = 0.2

    def __post_init__(self) -> None:
        if self.cover not in ("solid", "mosaic"):
            raise ValueError("cover must be solid or mosaic")
        if not 1 <= self.mosaic_cells <= MAX_CELLS:
            raise ValueError(f"mosaic_cells must be between 1 and {MAX_CELLS}")
        if not self.margin >= MIN_MARGIN:
            raise ValueError(f"margin must be at least {MIN_MARGIN}")
        if not 0 < self.detection_threshold <= MAX_DETECTION_THRESHOLD:
            raise ValueError(f"detection_threshold must be in (0, {MAX_DETECTION_THRESHOLD}]")


PROFILES = {name: Profile(name) for name in ("photographs", "clinical")}


@dataclass(frozen=True)
class Deidentified:
    """A picture after de-identification.

    pixels: (H, W, 3) uint8 RGB with every face found covered; all black if the detector failed.
    verdict: "released", or "review" with the reason. Only released pixels may be encoded or shown.
    """

    pixels: Pixels = field(repr=False)
    faces: tuple[Face, ...]
    verdict: Literal["released", "review"]
    reason: Reason | None = None


@lru_cache(maxsize=4)
def detector_for(profile: Profile) -> FaceDetector:
    """Return the detector of a profile, loaded once. Raises ModelRefused."""
    return union(threshold=profile.detection_threshold, added=settings.CLOISTER_DETECTORS)


def deidentify(decoded: Decoded, profile: Profile, detector: FaceDetector) -> Deidentified:
    """Cover every face of `decoded` and say whether the result may be released.

    Never raises for the detector's sake: a failing one gives a black picture for review.
    """
    try:
        faces, covered, is_clean = _cover_faces(decoded.pixels, profile, detector)
    except Exception:  # noqa: BLE001 - whatever a detector raises, nothing un-redacted may leave
        black = np.zeros_like(decoded.pixels)
        return Deidentified(black, (), "review", Reason.DETECTOR_FAILED)
    if not is_clean:
        return Deidentified(covered, faces, "review", Reason.FACE_STILL_FOUND)
    if may_carry_text(decoded):
        return Deidentified(covered, faces, "review", Reason.MAY_CARRY_BURNED_IN_TEXT)
    return Deidentified(covered, faces, "released")


def may_carry_text(decoded: Decoded) -> bool:
    """Whether a DICOM image may show names or numbers: unless its header denies it, assume so."""
    if decoded.media_type != _DICOM or decoded.burned_in is False:
        return False
    return (
        decoded.burned_in is True
        or decoded.copied_screen
        or decoded.modality not in _MODALITIES_WITHOUT_TEXT
    )


def _cover_faces(
    pixels: Pixels, profile: Profile, detector: FaceDetector
) -> tuple[tuple[Face, ...], Pixels, bool]:
    """Return all faces found, the covered pixels, and whether the second look found nothing.

    What the second look finds is covered too, and solidly: it may be a face that another one hid.
    Covers are no faces, however like one a mosaic looks.
    """
    faces = tuple(detector.detect(pixels))
    covered = cover(
        pixels, faces, style=profile.cover, cells=profile.mosaic_cells, margin=profile.margin
    )
    height, width = pixels.shape[:2]
    again = tuple(
        face
        for face in detector.detect(covered)
        if not lies_under_covers(face, faces, margin=profile.margin, height=height, width=width)
    )
    if again:
        covered = cover(covered, again, style="solid", margin=profile.margin)
    return faces + again, covered, not again
