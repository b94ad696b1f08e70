"""The few bytes that pass between the worker, the zygote and the decoding child.

The child has read hostile input and may be under its control: what it writes has a fixed layout,
is never unpickled, and every value is checked before use.
"""

import struct
from dataclasses import dataclass

from retrieval.errors import Reason
from workers.decode.limits import Limits

DICOM = "application/dicom"
MEDIA_TYPES = (
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/tiff",
    "image/gif",
    "image/bmp",
    "image/x-portable-anymap",
    "image/avif",
    "image/heif",
    DICOM,
)
CHILD_REASONS = frozenset(
    {
        Reason.NOT_AN_IMAGE,
        Reason.TRUNCATED,
        Reason.TOO_SMALL,
        Reason.TOO_MANY_PIXELS,
        Reason.NO_PIXELS,
        Reason.DECODE_FAILED,
        Reason.DECODE_MEMORY,
    }
)

# memory_bytes, cpu_s, wall_s, max_pixels, max_frames, max_side, min_side
_REQUEST = struct.Struct("<QIdQIII")
_REDUCED = struct.Struct("<I")
# magic, reason, height, width, frames, media type, burned in, copied screen, modality
_HEADER = struct.Struct("<8s32sIIIBBB16s")
_MAGIC = b"CLOISTR1"
_BURNED_IN = (None, False, True)

REQUEST_BYTES = _REQUEST.size
REDUCED_BYTES = _REDUCED.size
# Pixels start on a page of their own.
HEADER_BYTES = 4096


class MalformedAnswerError(Exception):
    """The child's answer breaks the layout."""


@dataclass(frozen=True)
class Reduced:
    """Asked behind the limits: less detail will do, if the shorter side keeps `side` pixels."""

    side: int


@dataclass(frozen=True)
class Answer:
    """What the child says about a file: a reason to refuse it, or the sizes of its pixels."""

    reason: Reason | None
    height: int = 0
    width: int = 0
    frames: int = 0
    media_type: str = MEDIA_TYPES[0]
    modality: str | None = None
    burned_in: bool | None = None
    copied_screen: bool = False


def pack_request(limits: Limits) -> bytes:
    """Return the limits as REQUEST_BYTES bytes."""
    return _REQUEST.pack(
        limits.memory_bytes,
        limits.cpu_s,
        limits.wall_s,
        limits.max_pixels,
        limits.max_frames,
        limits.max_side,
        limits.min_side,
    )


def unpack_request(raw: bytes) -> Limits:
    """Read `pack_request`'s bytes back."""
    return Limits(*_REQUEST.unpack(raw))


def pack_reduced(asked: Reduced) -> bytes:
    """Return the wish as REDUCED_BYTES bytes."""
    return _REDUCED.pack(asked.side)


def unpack_reduced(raw: bytes) -> Reduced:
    """Read `pack_reduced`'s bytes back."""
    return Reduced(*_REDUCED.unpack(raw))


def result_bytes(height: int, width: int) -> int:
    """Return the size of a header and the RGB pixels behind it."""
    return HEADER_BYTES + 3 * height * width


def pack_answer(answer: Answer) -> bytes:
    """Return the header of a result; shorter than HEADER_BYTES."""
    return _HEADER.pack(
        _MAGIC,
        (answer.reason or "").encode("ascii"),
        answer.height,
        answer.width,
        answer.frames,
        MEDIA_TYPES.index(answer.media_type),
        _BURNED_IN.index(answer.burned_in),
        answer.copied_screen,
        (answer.modality or "").encode("ascii"),
    )


def unpack_answer(raw: bytes, limits: Limits) -> Answer:
    """Read and check a child's header. Raises MalformedAnswerError if a value is out of range."""
    magic, reason, height, width, frames, media, burned_in, copied, modality = _HEADER.unpack(
        raw[: _HEADER.size]
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
    if not 1 <= frames <= limits.max_frames:
        raise MalformedAnswerError("frames")
    if media >= len(MEDIA_TYPES) or burned_in >= len(_BURNED_IN) or copied > 1:
        raise MalformedAnswerError("kind")
    modality = modality.rstrip(b"\0")
    if modality and not modality.isalnum():
        raise MalformedAnswerError("modality")
    return Answer(
        None,
        height,
        width,
        frames,
        MEDIA_TYPES[media],
        modality.decode("ascii") or None,
        _BURNED_IN[burned_in],
        bool(copied),
    )
