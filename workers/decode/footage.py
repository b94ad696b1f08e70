"""Look into a video of unknown origin: which moments stand for it, and frames at or after one.

Each question is answered by a decoding process of its own (see `sandbox`) that begins anew; none
lives as long as a video does, so a limit on one question is a limit on what a file can cost.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retrieval.errors import Reason, Rejected
from workers.decode import reel, wire
from workers.decode.limits import Limits
from workers.decode.reel import Answer, Asked, Kind
from workers.decode.sandbox import result_of

# What one question about a video may cost. 4096 by 2304 pixels hold what cameras call 4K.
LIMITS = Limits(cpu_s=30, wall_s=45.0, max_pixels=4096 * 2304, max_frames=250_000)
MAX_DURATION_S = 2 * 3600.0
# One sample at least for so many seconds, and no more than so many for one video.
EVERY_S = 10.0
MAX_SAMPLES = 200
_ROOM_BYTES = 128 * 1024**2

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """A moment that stands for the time from `start_s` to `end_s`, in seconds from the first frame.

    The ranges of a video's samples follow each other without gaps.
    """

    start_s: float
    end_s: float
    at_s: float


@dataclass(frozen=True)
class Survey:
    """What a video is. height, width: pixels of the upright frame."""

    media_type: str
    height: int
    width: int
    frames_per_s: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Stretch:
    """Frames that follow each other. frames: (N, H, W, 3) uint8 RGB, upright. times_s: (N,).

    centre: the frame that was asked for.
    """

    frames: Frames = field(repr=False)
    times_s: tuple[float, ...]
    centre: int = 0


def survey(
    content: bytes,
    *,
    every_s: float = EVERY_S,
    most: int = MAX_SAMPLES,
    max_duration_s: float = MAX_DURATION_S,
    limits: Limits = LIMITS,
) -> Survey:
    """Measure a video and choose the moments that stand for it: one per scene and `every_s`.

    Raises Rejected as `sandbox.decode` does, and with VIDEO_TOO_LONG or TOO_MANY_FRAMES.
    """
    asked = Asked(Kind.SURVEY, 0.0, most, max_duration_s, every_s)
    answer, _ = _ask(content, asked, limits, room=reel.HEADER_BYTES)
    if not len(answer.rows):
        raise Rejected(Reason.DECODE_FAILED)
    return Survey(
        answer.media_type,
        answer.height,
        answer.width,
        answer.frames_per_s,
        tuple(Sample(*map(float, row)) for row in answer.rows),
    )


def frames_around(content: bytes, moment_s: float, *, limits: Limits = LIMITS) -> Stretch:
    """Return the frame shown at `moment_s` with its neighbours 1 and 3 frames away, if any."""
    answer, frames = _ask(content, Asked(Kind.AROUND, moment_s, 5), limits, room=_ROOM_BYTES)
    if not len(frames):
        raise Rejected(Reason.TRUNCATED)
    return Stretch(frames, tuple(answer.rows[:, 0].tolist()), answer.centre)


def all_frames(content: bytes, *, limits: Limits = LIMITS) -> Iterator[Stretch]:
    """Yield every frame in order, as many at a time as fit into 128 MiB."""
    after_s = -1.0
    while True:
        answer, frames = _ask(content, Asked(Kind.AFTER, after_s), limits, room=_ROOM_BYTES)
        if not len(frames):
            return
        times = tuple(answer.rows[:, 0].tolist())
        if times[0] <= after_s:
            # A child that answers with the same frames for ever must not keep us for ever.
            raise Rejected(Reason.DECODE_FAILED)
        after_s = times[-1]
        yield Stretch(frames, times)


def _ask(content: bytes, asked: Asked, limits: Limits, *, room: int) -> tuple[Answer, Frames]:
    """Return the checked answer, and its frames as (N, H, W, 3) uint8 (none for a survey)."""
    request = wire.pack_request(limits) + reel.pack_asked(asked)
    with result_of(content, request, room, limits) as result_fd:
        with mmap.mmap(result_fd, reel.HEADER_BYTES, access=mmap.ACCESS_READ) as header:
            try:
                answer = reel.unpack_answer(header[:], asked, limits, room)
            except wire.MalformedAnswerError as exc:
                raise Rejected(Reason.DECODE_FAILED) from exc
        if answer.reason is not None:
            raise Rejected(answer.reason)
        count = 0 if asked.kind is Kind.SURVEY else len(answer.rows)
        size = reel.result_bytes(count, answer.height, answer.width)
        with mmap.mmap(result_fd, size, access=mmap.ACCESS_READ) as result:
            flat = np.frombuffer(result, np.uint8, offset=reel.HEADER_BYTES).copy()
        return answer, flat.reshape(count, answer.height, answer.width, 3)
