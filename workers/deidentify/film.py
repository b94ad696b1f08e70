"""De-identify a whole video: look at every fifth frame, the last, and whatever shows something new
in between; cover all, look again."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retrieval.errors import Reason, Rejected
from workers.decode import footage
from workers.deidentify.change import Cells, cells_of, shows_more
from workers.deidentify.faces import Pixels
from workers.deidentify.frame_time import TIME
from workers.deidentify.verdict import (
    Boxes,
    Detectors,
    Profile,
    boxes_to_cover,
    cover_all,
    look_again,
)
from workers.deidentify.video import STRIDE, tracked

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Film:
    """content: a WebM, empty unless released. seen: each sighting in a frame looked at.

    height, width: pixels of the upright frame.
    """

    content: bytes = field(repr=False)
    seen: Boxes
    height: int
    width: int
    verdict: Literal["released", "review"]
    reason: Reason | None = None


def deidentify_film(content: bytes, profile: Profile, detectors: Detectors) -> Film:
    """Cover what `profile` wants covered in every frame. Raises Rejected as `footage` does."""
    survey = footage.survey(content)
    height, width = survey.height, survey.width
    try:
        looks = _look(content, profile, detectors)
    except Rejected:
        raise
    except Exception:  # noqa: BLE001 - whatever a detector raises, nothing un-redacted may leave
        return Film(b"", Boxes(), height, width, "review", Reason.DETECTOR_FAILED)
    # The last frame is always looked at.
    count = max(looks, default=-1) + 1
    faces = tracked({number: list(boxes.faces) for number, boxes in looks.items()}, count)
    covers = [
        Boxes(faces=tuple(faces[number])) + _writing(looks, number) for number in range(count)
    ]
    written = _write(content, covers, profile)
    seen = sum(looks.values(), Boxes())
    if reason := _still_shows(written, covers, profile, detectors):
        return Film(b"", seen, height, width, "review", reason)
    return Film(written, seen, height, width, "released")


def _look(content: bytes, profile: Profile, detectors: Detectors) -> dict[int, Boxes]:
    """Return what shows in each frame that was looked at, by its number. Raises what a look does.

    Between two looks one frame in five apart nobody would see what comes and goes at once. So each
    frame between them is compared with both, and looked at where it is like neither.
    """
    looks: dict[int, Boxes] = {}
    looked_at: dict[int, Cells] = {}
    between: dict[int, Pixels] = {}

    def look(number: int, pixels: Pixels) -> None:
        looks[number] = boxes_to_cover(pixels, profile, detectors)
        looked_at[number] = cells_of(pixels)

    def close(number: int, pixels: Pixels) -> None:
        look(number, pixels)
        for earlier, skipped in between.items():
            near = [seen for at, seen in looked_at.items() if abs(at - earlier) < STRIDE]
            if shows_more(cells_of(skipped), near):
                look(earlier, skipped)
        between.clear()
        for gone in [at for at in looked_at if at < number]:
            del looked_at[gone]

    last: tuple[int, Pixels] | None = None
    for number, (_, pixels) in enumerate(_frames(content)):
        last = (number, pixels)
        if number % STRIDE == 0:
            close(number, pixels)
        else:
            between[number] = pixels
    if last is not None and last[0] not in looks:
        # What comes after the last fifth frame would be seen by no look.
        del between[last[0]]
        close(*last)
    return looks


def _frames(content: bytes) -> Iterator[tuple[float, Pixels]]:
    for stretch in footage.all_frames(content):
        yield from zip(stretch.times_s, stretch.frames, strict=True)


def _writing(looks: dict[int, Boxes], number: int) -> Boxes:
    """Writing and codes found in the looks around a frame: each is held for a look's stride."""
    near = [boxes for at, boxes in looks.items() if abs(at - number) < STRIDE]
    return Boxes(
        text=tuple(mark for boxes in near for mark in boxes.text),
        codes=tuple(mark for boxes in near for mark in boxes.codes),
    )


def _still_shows(
    written: bytes, covers: list[Boxes], profile: Profile, detectors: Detectors
) -> Reason | None:
    """Why what was written is for a person, if it is.

    Looked at midway between two looks: there a face is covered by its track alone, and writing
    that moves has left the place it was found in; and at the end. Raises Rejected DECODE_FAILED
    where not every frame that was written can be read again.
    """
    count = 0
    try:
        for count, (_, pixels) in enumerate(_frames(written), 1):
            if count > len(covers):
                break
            if (count - 1) % STRIDE == STRIDE // 2 or count == len(covers):
                left, reason = look_again(pixels[None], covers[count - 1], profile, detectors)
                if reason or left.faces:
                    return reason or Reason.FACE_STILL_FOUND
    except Rejected:
        raise
    except Exception:  # noqa: BLE001 - whatever a detector raises, nothing un-redacted may leave
        return Reason.DETECTOR_FAILED
    if count != len(covers):
        raise Rejected(Reason.DECODE_FAILED)
    return None


def _write(content: bytes, covers: list[Boxes], profile: Profile) -> bytes:
    """Return the video with its covers, written by a process of its own. Raises Rejected."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.webm")
        writer: subprocess.Popen[bytes] | None = None
        for (moment_s, pixels), boxes in zip(_frames(content), covers, strict=True):
            if writer is None:
                height, width = pixels.shape[:2]
                writer = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "workers.deidentify.webm",
                        path,
                        str(width),
                        str(height),
                    ],
                    cwd=_ROOT,
                    stdin=subprocess.PIPE,
                )
            assert writer.stdin is not None  # noqa: S101 - it was asked for
            writer.stdin.write(TIME.pack(moment_s) + cover_all(pixels, boxes, profile).tobytes())
        if writer is None:
            raise Rejected(Reason.TRUNCATED)
        writer.communicate()
        if writer.returncode != 0:
            raise Rejected(Reason.DECODE_FAILED)
        return path.read_bytes()
