"""The stored values of a DICOM image of unknown origin, frame by frame, as integers or floats.

Compressed data is unpacked in the sandbox, which also shows each frame as a viewer would. Each
question is answered by a decoding process of its own, so a limit on one is a limit on a few frames.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retrieval.errors import Reason, Rejected
from workers.decode import values, wire
from workers.decode.limits import Limits
from workers.decode.sandbox import result_of

Frames = npt.NDArray[np.uint8]
Values = npt.NDArray[np.generic]

# What a child may lay out; it takes less, since its own memory is limited as well.
_ROOM_BYTES = 400 * 1024**2
_MAX_FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class Stretch:
    """Frames that follow each other.

    values: (N, H, W) or (N, H, W, 3), little endian, as the file stores them: no rescaling, window
    or palette. shown: (N, H, W, 3) uint8 RGB, as a viewer shows them. frames: in the whole file.
    photometric: one of `values.PHOTOMETRIC`; subsampled YBR was spread to YBR_FULL. one_bit:
    whether the file packs eight values into a byte.
    """

    values: Values = field(repr=False)
    shown: Frames = field(repr=False)
    frames: int
    photometric: str
    bits_stored: int
    one_bit: bool


def stored_frames(content: bytes, *, limits: Limits = Limits()) -> Iterator[Stretch]:  # noqa: B008
    """Yield every frame in order, some at a time. Raises Rejected as `sandbox.decode` does."""
    first, frames = 0, 1
    while first < frames:
        stretch = _ask(content, values.Asked(first, _MAX_FRAMES_AT_ONCE), limits)
        if first and stretch.frames != frames:
            raise Rejected(Reason.DECODE_FAILED)
        frames = stretch.frames
        first += len(stretch.values)
        yield stretch


def _ask(content: bytes, asked: values.Asked, limits: Limits) -> Stretch:
    request = wire.pack_request(limits) + values.pack_asked(asked)
    with result_of(content, request, _ROOM_BYTES, limits) as result_fd:
        with mmap.mmap(result_fd, values.HEADER_BYTES, access=mmap.ACCESS_READ) as header:
            try:
                answer = values.unpack_answer(header[:], asked, limits, _ROOM_BYTES)
            except wire.MalformedAnswerError as exc:
                raise Rejected(Reason.DECODE_FAILED) from exc
        if answer.reason is not None:
            raise Rejected(answer.reason)
        with mmap.mmap(result_fd, answer.result_bytes, access=mmap.ACCESS_READ) as result:
            whole = np.frombuffer(result, np.uint8).copy()
    stored, shown = values.split(whole, answer)
    return Stretch(
        stored,
        shown,
        answer.frames,
        answer.photometric,
        answer.bits_stored,
        answer.one_bit,
    )
