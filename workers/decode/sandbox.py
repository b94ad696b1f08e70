"""Unpack one file of unknown origin into pixels, in a process that can do nothing else.

Decoders of images are where a hostile file would take over: each file is decoded in a process of
its own with hard limits, without network, files or privileges, which is killed when it is over.
"""

import contextlib
import fcntl
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.errors import Reason, Rejected, ServicesUnavailable
from workers.decode import wire
from workers.decode.limits import Limits
from workers.decode.picture import WHOLE_PIXELS, Pixels, reduced
from workers.decode.protection import Protection

__all__ = ["Decoded", "Limits", "Protection", "decode", "decode_reduced", "protection", "result_of"]

_ROOT = Path(__file__).resolve().parents[2]
_ZYGOTE = (sys.executable, "-m", "workers.decode.zygote")
# What the zygote may take to answer beyond the child's own time: loading, on a busy machine.
_ZYGOTE_START_S = 30.0
_ZYGOTE_ANSWER_S = 5.0
_REPLY_REASONS = {
    b"T": Reason.DECODE_TIMEOUT,
    b"K": Reason.DECODE_MEMORY,
    b"F": Reason.DECODE_FAILED,
}


@dataclass(frozen=True)
class Decoded:
    """One picture in memory.

    pixels: (H, W, 3) uint8 RGB, upright (EXIF orientation applied); of several frames the first.
    frames: how many the file holds. media_type: what the file is, not what its name says.
    modality, burned_in: DICOM (0008,0060) and (0028,0301); None where absent or not DICOM.
    copied_screen: a DICOM image that was captured from a screen, film or paper, whatever its
    modality says: such pictures carry writing. reduced: how many pixels of the file one of these
    stands for along each side: 2 above `WHOLE_PIXELS`, for all but DICOM.
    """

    pixels: Pixels
    frames: int
    media_type: str
    modality: str | None = None
    burned_in: bool | None = None
    copied_screen: bool = False
    reduced: int = 1


def decode(content: bytes, *, limits: Limits = Limits()) -> Decoded:  # noqa: B008 - frozen
    """Return the picture in `content`, whatever its name was.

    Raises Rejected with EMPTY_FILE, NOT_AN_IMAGE, TRUNCATED, TOO_SMALL, TOO_MANY_PIXELS,
    NO_PIXELS, DECODE_FAILED, DECODE_MEMORY or DECODE_TIMEOUT; ServicesUnavailable if no decoder
    process can be kept running (a retry may help). Safe to call from several threads.
    """
    return _decoded(content, wire.pack_request(limits), limits)


def decode_reduced(content: bytes, side: int, *, limits: Limits = Limits()) -> Pixels:  # noqa: B008
    """Return the picture with a half, a quarter or an eighth of the pixels along each side.

    Of a JPEG whose shorter side keeps `side` pixels then; whole otherwise. Only for pixels that
    are de-identified: what is looked for in a picture may be gone in this one. Raises as `decode`.
    """
    request = wire.pack_request(limits) + wire.pack_reduced(wire.Reduced(side))
    return _decoded(content, request, limits).pixels


def _decoded(content: bytes, request: bytes, limits: Limits) -> Decoded:
    room = wire.result_bytes(1, limits.max_pixels)
    with result_of(content, request, room, limits) as result_fd:
        return _read(result_fd, limits)


@contextlib.contextmanager
def result_of(content: bytes, request: bytes, room: int, limits: Limits) -> Iterator[int]:
    """Have a child answer `request` about a file; yields a descriptor of `room` bytes of result.

    What is in it was written by a process that hostile input may have taken over. Raises as
    `decode` for a child that came to its end.
    """
    if not content:
        raise Rejected(Reason.EMPTY_FILE)
    with _memory_file("content", len(content)) as content_fd:
        with mmap.mmap(content_fd, len(content)) as view:
            view[:] = content
        with _memory_file("result", room) as result_fd:
            ending = _run(content_fd, result_fd, request, limits)
            if ending in _REPLY_REASONS:
                raise Rejected(_REPLY_REASONS[ending])
            yield result_fd


def protection() -> Protection:
    """Start the decoder if need be and return how well its children are confined.

    Raises ServicesUnavailable where the host gives less than CLOISTER_SANDBOX asks for.
    """
    return _running_zygote().protection


@contextlib.contextmanager
def _memory_file(name: str, size: int) -> Iterator[int]:
    """Open `size` bytes of zeros in memory, taken only when touched, that cannot be resized.

    Were the child able to shrink it, reading the pixels would kill this process.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        yield fd
    finally:
        os.close(fd)


def _read(result_fd: int, limits: Limits) -> Decoded:
    """Check what the child, now dead, left behind, and copy its pixels."""
    with mmap.mmap(result_fd, wire.HEADER_BYTES, access=mmap.ACCESS_READ) as header:
        try:
            answer = wire.unpack_answer(header[:], limits)
        except wire.MalformedAnswerError as exc:
            raise Rejected(Reason.DECODE_FAILED) from exc
    if answer.reason is not None:
        raise Rejected(answer.reason)
    size = wire.result_bytes(answer.height, answer.width)
    # A DICOM object leaves with all its values, so all of them have to be looked at.
    is_large = answer.height * answer.width > WHOLE_PIXELS and answer.media_type != wire.DICOM
    factor = 2 if is_large else 1
    shape = (answer.height, answer.width, 3)
    with mmap.mmap(result_fd, size, access=mmap.ACCESS_READ) as result:
        whole = np.frombuffer(result, np.uint8, offset=wire.HEADER_BYTES).reshape(shape)
        pixels = reduced(whole, factor) if is_large else whole.copy()
        del whole  # or the mapping could not be closed
    return Decoded(
        pixels,
        answer.frames,
        answer.media_type,
        answer.modality,
        answer.burned_in,
        answer.copied_screen,
        factor,
    )


def _run(content_fd: int, result_fd: int, request: bytes, limits: Limits) -> bytes:
    """Have one file decoded; return how the child ended. A lost zygote is replaced once."""
    for _ in range(2):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.settimeout(limits.wall_s + _ZYGOTE_ANSWER_S)
            zygote = _running_zygote()
            with theirs, contextlib.suppress(OSError):
                socket.send_fds(
                    zygote.control,
                    [request],
                    [content_fd, result_fd, theirs.fileno()],
                )
            with contextlib.suppress(OSError):
                if ending := ours.recv(1):
                    return ending
        _discard(zygote)
    raise ServicesUnavailable("the decoder process does not stay up")


@dataclass(frozen=True)
class _Zygote:
    process: subprocess.Popen[bytes]
    control: socket.socket
    protection: Protection


_lock = threading.Lock()
_zygote: _Zygote | None = None


def _running_zygote() -> _Zygote:
    """Return this process's zygote, started if there is none."""
    global _zygote  # noqa: PLW0603 - one per process, like the process itself
    with _lock:
        if _zygote is None:
            _zygote = _start()
        return _zygote


def _wanted() -> Protection:
    """Return what CLOISTER_SANDBOX asks for at least; more is used wherever the host has it."""
    name = os.environ.get("CLOISTER_SANDBOX", "filtered")
    try:
        return Protection[name.upper()]
    except KeyError as exc:
        known = ", ".join(level.name.lower() for level in Protection)
        raise ServicesUnavailable(f"CLOISTER_SANDBOX is none of {known}") from exc


def _start() -> _Zygote:
    wanted = _wanted()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Nothing of our environment goes along: it holds the keys and passwords of the appliance.
    environment = {
        "PYTHONPATH": str(_ROOT),
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # Every arena of a thread's own would take 64 MB of the address space a child is given.
        "MALLOC_ARENA_MAX": "1",
    }
    with theirs:
        process = subprocess.Popen(
            [*_ZYGOTE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    ours.settimeout(_ZYGOTE_START_S)
    try:
        held = ours.recv(1)
    except OSError:
        held = b""
    ours.settimeout(_ZYGOTE_ANSWER_S)
    if not held:
        _end(process, ours)
        raise ServicesUnavailable("the decoder process does not start")
    if held[0] < wanted:
        _end(process, ours)
        raise ServicesUnavailable("the decoder cannot be confined as CLOISTER_SANDBOX asks")
    return _Zygote(process, ours, Protection(held[0]))


def _discard(lost: _Zygote) -> None:
    """Forget a zygote that no longer answers, unless another thread already did."""
    global _zygote  # noqa: PLW0603
    with _lock:
        if _zygote is lost:
            _zygote = None
            _end(lost.process, lost.control)


def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()
    process.kill()
    process.wait()


def _forget_after_fork() -> None:
    """A forked worker starts a zygote of its own: the parent's ends with the parent."""
    global _lock, _zygote  # noqa: PLW0603
    _lock = threading.Lock()
    if _zygote is not None:
        _zygote.control.close()
        _zygote.process.returncode = 0  # not ours to wait for
        _zygote = None


os.register_at_fork(after_in_child=_forget_after_fork)
