"""What may be asked about a DICOM image's stored values and what the child answers, as bytes.

As in `wire`, the child may be under the control of what it read: every value is checked before use.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import Reason
from workers.decode.limits import Limits
from workers.decode.wire import CHILD_REASONS, MalformedAnswerError

PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL")
KINDS = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8")

# first frame, the most frames
_ASKED = struct.Struct("<II")
# magic, reason, frames in all, frames here, height, width, samples, kind, photometric, bits stored,
# one bit
_HEADER = struct.Struct("<8s32sIIIIBBBBB")
_MAGIC = b"CLOISTRD"

ASKED_BYTES = _ASKED.size
HEADER_BYTES = 4096


@dataclass(frozen=True)
class Asked:
    """first: the number of a frame, from 0. count: the most frames wanted, at least 1."""

    first: int
    count: int


@dataclass(frozen=True)
class Answer:
    """How the frames are laid out behind the header: all values, then all RGB pictures.

    frames: in the file. count: here. kind: of `KINDS`, little endian. one_bit: whether the file
    packs eight values into a byte.
    """

    reason: Reason | None
    frames: int = 0
    count: int = 0
    height: int = 0
    width: int = 0
    samples: int = 1
    kind: str = KINDS[0]
    photometric: str = PHOTOMETRIC[1]
    bits_stored: int = 8
    one_bit: bool = False

    @property
    def value_bytes(self) -> int:
        """Size of all stored values in this answer."""
        each = np.dtype(self.kind).itemsize * self.samples
        return self.count * self.height * self.width * each

    @property
    def result_bytes(self) -> int:
        """Size of header, values and pictures."""
        return HEADER_BYTES + self.value_bytes + 3 * self.count * self.height * self.width


def pack_asked(asked: Asked) -> bytes:
    """Return the question as ASKED_BYTES bytes."""
    return _ASKED.pack(asked.first, asked.count)


def unpack_asked(raw: bytes) -> Asked:
    """Read `pack_asked`'s bytes back."""
    return Asked(*_ASKED.unpack(raw))


def pack_answer(answer: Answer) -> bytes:
    """Return the header of a result; shorter than HEADER_BYTES."""
    return _HEADER.pack(
        _MAGIC,
        (answer.reason or "").encode("ascii"),
        answer.frames,
        answer.count,
        answer.height,
        answer.width,
        answer.samples,
        KINDS.index(answer.kind),
        PHOTOMETRIC.index(answer.photometric),
        answer.bits_stored,
        answer.one_bit,
    )


def unpack_answer(raw: bytes, asked: Asked, limits: Limits, room: int) -> Answer:
    """Read and check a child's header. Raises MalformedAnswerError if a value is out of range.

    room: how many bytes the whole result has.
    """
    magic, reason, frames, count, height, width, samples, kind, photometric, bits, one_bit = (
        _HEADER.unpack(raw[: _HEADER.size])
    )
    if magic != _MAGIC:
        raise MalformedAnswerError("magic")
    if reason := reason.rstrip(b"\0"):
        named = [known for known in CHILD_REASONS if known.value.encode("ascii") == reason]
        if not named:
            raise MalformedAnswerError("reason")
        return Answer(named[0])
    if min(height, width) < limits.min_side or max(height, width) > limits.max_side:
        raise MalformedAnswerError("side")
    if height * width > limits.max_pixels:
        raise MalformedAnswerError("size")
    if frames > limits.max_frames or not 1 <= count <= min(asked.count, frames - asked.first):
        raise MalformedAnswerError("frames")
    if kind >= len(KINDS) or photometric >= len(PHOTOMETRIC) or samples not in (1, 3):
        raise MalformedAnswerError("kind")
    in_colour = PHOTOMETRIC[photometric] in ("RGB", "YBR_FULL")
    if in_colour != (samples == 3) or one_bit > 1:  # noqa: PLR2004
        raise MalformedAnswerError("samples")
    if not 1 <= bits <= 8 * np.dtype(KINDS[kind]).itemsize:
        raise MalformedAnswerError("bits")
    answer = Answer(
        None,
        frames,
        count,
        height,
        width,
        samples,
        KINDS[kind],
        PHOTOMETRIC[photometric],
        bits,
        bool(one_bit),
    )
    if answer.result_bytes > room:
        raise MalformedAnswerError("room")
    return answer


def split(
    result: npt.NDArray[np.uint8], answer: Answer
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Return views of a whole result: values (N, H, W[, 3]) and pictures (N, H, W, 3) uint8 RGB."""
    shape = (answer.count, answer.height, answer.width)
    end = HEADER_BYTES + answer.value_bytes
    values = result[HEADER_BYTES:end].view(answer.kind)
    shown = result[end : answer.result_bytes].reshape(*shape, 3)
    return values.reshape(*shape, *((3,) if answer.samples > 1 else ())), shown
