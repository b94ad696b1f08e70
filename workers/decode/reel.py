"""What may be asked about a video and what the decoding child answers, as bytes of fixed layout.

As in `wire`, the child may be under the control of what it read: every value is checked before use.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from retrieval.errors import Reason
from workers.decode.limits import Limits
from workers.decode.wire import CHILD_REASONS, MalformedAnswerError

MEDIA_TYPES = ("video/mp4", "video/webm", "video/x-msvideo")
REASONS = CHILD_REASONS | {Reason.VIDEO_TOO_LONG, Reason.TOO_MANY_FRAMES}

# kind, moment, count, longest duration, longest time a sample stands for
_ASKED = struct.Struct("<BdIdd")
# magic, reason, rows, height, width, centre, media type, frames a second
_HEADER = struct.Struct("<8s32sIIIIBd")
_MAGIC = b"CLOISTRV"

ASKED_BYTES = _ASKED.size
HEADER_BYTES = 65536
MAX_ROWS = 1024
_ROWS_AT = 256


class Kind(IntEnum):
    """SURVEY: which moments stand for the video. AROUND: the frame shown at a moment and four
    neighbours. AFTER: the frames that follow a moment, as many as there is room for.
    """

    SURVEY = 0
    AROUND = 1
    AFTER = 2


@dataclass(frozen=True)
class Asked:
    """moment_s: seconds since the first frame, for AROUND and AFTER. count: the most rows wanted.
    max_duration_s, every_s: for SURVEY.
    """

    kind: Kind
    moment_s: float = 0.0
    count: int = MAX_ROWS
    max_duration_s: float = 0.0
    every_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """rows: (N, 3) float64 seconds. For SURVEY start, end and moment of each sample; otherwise
    the time of each frame, three times. centre: the row that AROUND asked for.
    """

    reason: Reason | None
    rows: npt.NDArray[np.float64]
    height: int = 0
    width: int = 0
    centre: int = 0
    media_type: str = MEDIA_TYPES[0]
    frames_per_s: float = 0.0


def no_rows() -> npt.NDArray[np.float64]:
    return np.empty((0, 3))


def pack_asked(asked: Asked) -> bytes:
    """Return the question as ASKED_BYTES bytes."""
    return _ASKED.pack(asked.kind, asked.moment_s, asked.count, asked.max_duration_s, asked.every_s)


def unpack_asked(raw: bytes) -> Asked:
    """Read `pack_asked`'s bytes back."""
    kind, moment_s, count, max_duration_s, every_s = _ASKED.unpack(raw)
    return Asked(Kind(kind), moment_s, count, max_duration_s, every_s)


def result_bytes(frames: int, height: int, width: int) -> int:
    """Return the size of a header and the RGB frames behind it."""
    return HEADER_BYTES + 3 * frames * height * width


def pack_answer(answer: Answer) -> bytes:
    """Return the header of a result; shorter than HEADER_BYTES."""
    header = _HEADER.pack(
        _MAGIC,
        (answer.reason or "").encode("ascii"),
        len(answer.rows),
        answer.height,
        answer.width,
        answer.centre,
        MEDIA_TYPES.index(answer.media_type),
        answer.frames_per_s,
    )
    return header.ljust(_ROWS_AT, b"\0") + answer.rows.astype("<f8").tobytes()


def unpack_answer(raw: bytes, asked: Asked, limits: Limits, room: int) -> Answer:
    """Read and check a child's header. Raises MalformedAnswerError if a value is out of range.

    room: how many bytes the whole result has.
    """
    magic, reason, count, height, width, centre, media, rate = _HEADER.unpack(raw[: _HEADER.size])
    if magic != _MAGIC:
        raise MalformedAnswerError("magic")
    if reason := reason.rstrip(b"\0"):
        named = [known for known in REASONS if known.value.encode("ascii") == reason]
        if not named:
            raise MalformedAnswerError("reason")
        return Answer(named[0], no_rows())
    if min(height, width) < limits.min_side or height * width > limits.max_pixels:
        raise MalformedAnswerError("size")
    if count > min(asked.count, MAX_ROWS) or centre >= max(count, 1):
        raise MalformedAnswerError("rows")
    if asked.kind is not Kind.SURVEY and result_bytes(count, height, width) > room:
        raise MalformedAnswerError("room")
    rows = np.frombuffer(raw, "<f8", 3 * count, _ROWS_AT).reshape(count, 3).copy()
    in_range = np.isfinite(rows).all() and (rows >= 0).all()
    if not in_range or (np.diff(rows, axis=0) < 0).any() or not 0 < rate <= 1000:  # noqa: PLR2004
        raise MalformedAnswerError("times")
    if media >= len(MEDIA_TYPES):
        raise MalformedAnswerError("kind")
    return Answer(None, rows, height, width, centre, MEDIA_TYPES[media], rate)
