"""Decide whether a picture may leave: find, cover, look again, and when in doubt ask a person."""

from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from django.conf import settings

from retrieval.errors import NotDeidentified, Reason
from workers.decode.sandbox import Decoded
from workers.deidentify.allowed import MAX_ENTRIES, check_entry, is_allowed
from workers.deidentify.codes import CodeDetector, ZxingCodes
from workers.deidentify.faces import Face, FaceDetector, Pixels, union
from workers.deidentify.marks import Mark, cover_marks, without_inner
from workers.deidentify.obscure import (
    DEFAULT_MARGIN,
    IS_COVER,
    MAX_CELLS,
    MIN_MARGIN,
    Shape,
    Style,
    cover,
    is_covered,
    share_under_covers,
)
from workers.deidentify.text import RapidText, Reading, TextDetector

# Scores above which a detector may look away. Above it, one face in twenty goes unseen.
MAX_DETECTION_THRESHOLD = 0.3

# DICOM modalities whose devices write nothing into the pixels. All others do or may: ultrasound,
# endoscopes, cameras, microscopes, angiography, scanned film; and one we do not know is no reason
# to trust it.
_MODALITIES_WITHOUT_TEXT = frozenset(
    {"CT", "MR", "PT", "NM", "CR", "DX", "MG", "PX", "IO", "SEG", "RTDOSE", "OCT", "BMD"}
)
_DICOM = "application/dicom"

# Writing stays only where it is read this surely; a mark much longer than its words would be holds
# more than was read of it.
_SURE_SCORE = 0.8
_MAX_LETTER_WIDTH = 1.5  # of the mark's height
# So much, read so surely after covering, is a word that was left.
_WORD_LETTERS = 3
_WORD_SCORE = 0.6
# What a later look takes for a face with this share of its box under covers, it takes from an edge.
_AT_AN_EDGE = 0.5
# A new face from this score on is one that the first look missed. Fainter ones come and go with
# every change to a picture: in one photograph of six, the covers alone brought one.
_SURE_FACE = 0.6
# Of a multi-frame image so many frames are looked at as fully as a single picture.
_SAMPLED_FRAMES = 8


@dataclass(frozen=True)
class Profile:
    """How a collection is de-identified. It can be stricter than the floor, never laxer.

    cover: "solid" or "mosaic". shape: "box" or "ellipse". mosaic_cells: 1 to 6 along each side.
    margin: at least 0.1 of a face's longer side. detection_threshold: score in (0, 0.3] from which
    something is a face. cover_text, cover_codes: whether writing, bar and matrix codes are covered
    as well. text_allowed: the writing that stays all the same (workers/deidentify/allowed.py).
    Raises ValueError below the floor.
    """

    name: str
    cover: Style = "solid"
    shape: Shape = "box"
    mosaic_cells: int = MAX_CELLS
    margin: float = DEFAULT_MARGIN
    detection_threshold: float = 0.2
    cover_text: bool = False
    cover_codes: bool = False
    text_allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.cover not in ("solid", "mosaic"):
            raise ValueError("cover must be solid or mosaic")
        if self.shape not in ("box", "ellipse"):
            raise ValueError("shape must be box or ellipse")
        if not 1 <= self.mosaic_cells <= MAX_CELLS:
            raise ValueError(f"mosaic_cells must be between 1 and {MAX_CELLS}")
        if not self.margin >= MIN_MARGIN:
            raise ValueError(f"margin must be at least {MIN_MARGIN}")
        if not 0 < self.detection_threshold <= MAX_DETECTION_THRESHOLD:
            raise ValueError(f"detection_threshold must be in (0, {MAX_DETECTION_THRESHOLD}]")
        if len(self.text_allowed) > MAX_ENTRIES:
            raise ValueError(f"text_allowed must hold at most {MAX_ENTRIES} entries")
        for entry in self.text_allowed:
            check_entry(entry)


# Side marks and scale bars: what a clinician needs and no person is known by.
CLINICAL_TEXT = ("L", "R", "# cm", "# mm")
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("photographs"),
        Profile("documents"),
        Profile("clinical", cover_text=True, cover_codes=True, text_allowed=CLINICAL_TEXT),
    )
}


@dataclass(frozen=True)
class Detectors:
    """What looks at pictures for one profile; None where the profile covers no such thing."""

    faces: FaceDetector
    text: TextDetector | None = None
    codes: CodeDetector | None = None


@dataclass(frozen=True)
class Boxes:
    """What is to be covered, in pixels of the upright image. Writing that may stay is left out."""

    faces: tuple[Face, ...] = ()
    text: tuple[Mark, ...] = ()
    codes: tuple[Mark, ...] = ()

    def __add__(self, other: "Boxes") -> "Boxes":
        return Boxes(self.faces + other.faces, self.text + other.text, self.codes + other.codes)


@dataclass(frozen=True)
class Deidentified:
    """A picture after de-identification.

    pixels: (H, W, 3) uint8 RGB with everything found covered; all black if a detector failed.
    verdict: "released", or "review" with the reason. Only released pixels may be encoded or shown.
    """

    pixels: Pixels = field(repr=False)
    boxes: Boxes
    verdict: Literal["released", "review"]
    reason: Reason | None = None


@dataclass(frozen=True)
class DeidentifiedFrames:
    """The frames of one image after de-identification, (N, H, W, 3), and one verdict for all."""

    frames: Pixels = field(repr=False)
    boxes: Boxes
    verdict: Literal["released", "review"]
    reason: Reason | None = None


def detector_for(profile: Profile) -> FaceDetector:
    """Return the face detector of a profile, loaded once. Raises ModelRefused."""
    return _faces(profile.detection_threshold, settings.CLOISTER_DETECTORS)


@lru_cache(maxsize=4)
def _faces(threshold: float, added: Path | None) -> FaceDetector:
    return union(threshold=threshold, added=added)


def detectors_for(profile: Profile) -> Detectors:
    """Return all detectors a profile asks for, loaded once a process. Raises ModelRefused."""
    return Detectors(
        faces=detector_for(profile),
        text=_text_detector() if profile.cover_text else None,
        codes=ZxingCodes() if profile.cover_codes else None,
    )


@cache
def _text_detector() -> TextDetector:
    return RapidText()


class _Nobody:
    """In the place of a detector that has already looked at these pixels and found nothing."""

    name = "nobody"

    def detect(self, pixels: Pixels) -> list[Face]:
        return []


_NOBODY = _Nobody()


def deidentify(decoded: Decoded, profile: Profile, detectors: Detectors) -> Deidentified:
    """Cover all that `profile` names in `decoded` and say whether the result may be released.

    Never raises for a detector's sake: a failing one gives a black picture for review.
    """
    one = deidentify_frames(decoded.pixels[None], profile, detectors)
    verdict, reason = one.verdict, one.reason
    if verdict == "released" and may_carry_text(decoded, profile, one.boxes):
        verdict, reason = "review", Reason.MAY_CARRY_BURNED_IN_TEXT
    return Deidentified(one.frames[0], one.boxes, verdict, reason)


def deidentify_frames(
    frames: Pixels,
    profile: Profile,
    detectors: Detectors,
    held: Boxes = Boxes(),
) -> DeidentifiedFrames:
    """Cover in every frame what is found in any, and look at each again.

    frames: (N, H, W, 3) uint8 RGB of one image. What its header says is not asked here.
    held: what is covered as well, because something else than these frames shows it.
    """
    try:
        boxes = _with_held(_boxes_of_frames(frames, profile, detectors), held, profile, frames[0])
        covered = np.stack([_surely_covered(frame, boxes, profile) for frame in frames])
        # Uncovered pixels show the same detector the same: writing alone has another second look.
        others = detectors if boxes != Boxes() else replace(detectors, faces=_NOBODY, codes=None)
        again, reason = look_again(covered, boxes, profile, others)
        if again != Boxes():
            covered = _cover_solidly(covered, again, profile)
            if reason is None and again.faces:
                third, reason = look_again(covered, boxes + again, profile, detectors)
                reason = reason or (Reason.FACE_STILL_FOUND if third.faces else None)
                covered, again = _cover_solidly(covered, third, profile), again + third
    except Exception:  # noqa: BLE001 - whatever a detector raises, nothing un-redacted may leave
        black = np.zeros_like(frames)
        return DeidentifiedFrames(black, Boxes(), "review", Reason.DETECTOR_FAILED)
    verdict: Literal["released", "review"] = "review" if reason else "released"
    return DeidentifiedFrames(covered, boxes + again, verdict, reason)


def may_carry_text(decoded: Decoded, profile: Profile, covered: Boxes) -> bool:
    """Whether a DICOM image may still show names or numbers.

    Unless its modality writes nothing, assume so, where the profile covers no writing: a header
    that denies it was written by whatever made the picture, and nobody looked. Where the profile
    covers it, a header that says there is some while none was found knows more than the detector.
    """
    if decoded.media_type != _DICOM:
        return False
    if profile.cover_text:
        return decoded.burned_in is True and not covered.text
    return (
        decoded.burned_in is True
        or decoded.copied_screen
        or decoded.modality not in _MODALITIES_WITHOUT_TEXT
    )


def boxes_to_cover(pixels: Pixels, profile: Profile, detectors: Detectors) -> Boxes:
    """Return all that `profile` wants covered in one (H, W, 3) uint8 RGB frame."""
    written = detectors.text.find(pixels) if detectors.text else ()
    return Boxes(
        faces=tuple(detectors.faces.detect(pixels)),
        text=tuple(mark for mark in written if not _may_stay(pixels, mark, profile, detectors)),
        codes=detectors.codes.find(pixels) if detectors.codes else (),
    )


def cover_all(pixels: Pixels, boxes: Boxes, profile: Profile) -> Pixels:
    """Return a copy of one (H, W, 3) uint8 RGB frame with all boxes covered."""
    covered = cover(
        pixels,
        boxes.faces,
        style=profile.cover,
        shape=profile.shape,
        cells=profile.mosaic_cells,
        margin=profile.margin,
    )
    return cover_marks(covered, boxes.text + boxes.codes)


def _surely_covered(pixels: Pixels, boxes: Boxes, profile: Profile) -> Pixels:
    """The same as `cover_all`. Raises NotDeidentified where a cover is not in the pixels."""
    covered = cover_all(pixels, boxes, profile)
    if not is_covered(
        covered,
        boxes.faces,
        style=profile.cover,
        shape=profile.shape,
        cells=profile.mosaic_cells,
        margin=profile.margin,
    ):
        raise NotDeidentified("a face is not under its cover")
    if not np.array_equal(cover_marks(covered, boxes.text + boxes.codes), covered):
        raise NotDeidentified("writing or a code is not under its cover")
    return covered


def _boxes_of_frames(frames: Pixels, profile: Profile, detectors: Detectors) -> Boxes:
    """Look at one frame fully; of several at each, and fully at what shows in any of them.

    Writing that stands still shows in the brightest and darkest value of each pixel over time,
    whatever moves behind it; a sample of frames shows what those two blend.
    """
    if len(frames) == 1:
        return boxes_to_cover(frames[0], profile, detectors)
    sampled = np.linspace(0, len(frames) - 1, min(len(frames), _SAMPLED_FRAMES)).astype(int)
    boxes = Boxes()
    if detectors.text or detectors.codes:
        for still in (frames.max(axis=0), frames.min(axis=0)):
            boxes += replace(boxes_to_cover(still, profile, detectors), faces=())
    for number, frame in enumerate(frames):
        if number in sampled:
            boxes += boxes_to_cover(frame, profile, detectors)
        else:
            boxes += _quick_look(frame, profile, detectors)
    return replace(boxes, text=without_inner(boxes.text), codes=without_inner(boxes.codes))


def _with_held(found: Boxes, held: Boxes, profile: Profile, pixels: Pixels) -> Boxes:
    """Add what is held and does not lie under the covers of what was found anyway."""
    faces = tuple(
        face for face in held.faces if _share(face, found.faces, profile, pixels) < IS_COVER
    )
    return Boxes(
        found.faces + faces,
        without_inner(found.text + held.text),
        without_inner(found.codes + held.codes),
    )


def _quick_look(pixels: Pixels, profile: Profile, detectors: Detectors) -> Boxes:
    """The same as `boxes_to_cover`, with the fewer views that a second look has."""
    written = detectors.text.find_again(pixels) if detectors.text else ()
    return Boxes(
        faces=tuple(detectors.faces.detect(pixels)),
        text=tuple(mark for mark in written if not _may_stay(pixels, mark, profile, detectors)),
        codes=detectors.codes.find(pixels) if detectors.codes else (),
    )


def still_found(covered: Pixels, boxes: Boxes, profile: Profile, detectors: Detectors) -> Boxes:
    """Return what one covered (H, W, 3) uint8 RGB frame still shows beside its covers."""
    return look_again(covered[None], boxes, profile, detectors)[0]


def _cover_solidly(frames: Pixels, boxes: Boxes, profile: Profile) -> Pixels:
    solid = replace(profile, cover="solid")
    return np.stack([cover_all(frame, boxes, solid) for frame in frames])


def look_again(
    frames: Pixels, boxes: Boxes, profile: Profile, detectors: Detectors
) -> tuple[Boxes, Reason | None]:
    """Return what covered frames still show, and why that is for a person, if it is.

    It is covered too, and solidly: it may be a face that another one hid. Writing that nobody
    can read is covered and asks nobody. Covers are no faces, however like one a mosaic looks. A
    "face" half of which is a cover, or of which no view is sure, asks nobody yet: it has to be
    covered and looked at once more.
    """
    again, reason = Boxes(), None
    for frame in frames:
        left = _quick_look(frame, profile, detectors)
        shares = [_share(face, boxes.faces, profile, frame) for face in left.faces]
        new = [pair for pair in zip(left.faces, shares, strict=True) if pair[1] < IS_COVER]
        left = replace(left, faces=tuple(face for face, _ in new))
        again += left
        if any(share < _AT_AN_EDGE and face.score >= _SURE_FACE for face, share in new):
            reason = reason or Reason.FACE_STILL_FOUND
        elif left.codes:
            reason = reason or Reason.CODE_STILL_FOUND
        elif detectors.text and any(_is_word(detectors.text.read(frame, m)) for m in left.text):
            reason = reason or Reason.TEXT_STILL_FOUND
    return again, reason


def _share(face: Face, covered: tuple[Face, ...], profile: Profile, frame: Pixels) -> float:
    height, width = frame.shape[:2]
    return share_under_covers(
        face, covered, shape=profile.shape, margin=profile.margin, height=height, width=width
    )


def _may_stay(pixels: Pixels, mark: Mark, profile: Profile, detectors: Detectors) -> bool:
    """Whether a mark is surely read, and reads as what the profile allows."""
    if not profile.text_allowed or detectors.text is None:
        return False
    reading = detectors.text.read(pixels, mark)
    length, height = mark.sides
    return (
        reading.score >= _SURE_SCORE
        and length <= _MAX_LETTER_WIDTH * height * (len(reading.words) + 1)
        and is_allowed(reading.words, profile.text_allowed)
    )


def _is_word(reading: Reading) -> bool:
    letters = sum(letter.isalnum() for letter in reading.words)
    return letters >= _WORD_LETTERS and reading.score >= _WORD_SCORE
