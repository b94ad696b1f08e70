"""The clean process that decoding children are forked from.

Started as `python -m workers.decode.zygote FD`, with FD one end of a SOCK_SEQPACKET socket. It has
Pillow and pydicom loaded and one thread, so a child costs a fork and not an interpreter; the worker
itself, with its threads and models, is never forked. Once it is ready it says in one byte how
well a child of its own was confined (a `Protection`, 0 for not at all), and ends when the other
end is closed.

A request is one message: the limits, what is asked if the file is a video, its stored values are
wanted or less detail will do, and three descriptors:
the file's content, a memory file for the result, and a socket on which two bytes answer how the
child ended.
"""

import contextlib
import gc
import itertools
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

import numpy as np

from retrieval.errors import Reason, Rejected
from workers.decode import dicom, raster, reel, values, video, wire
from workers.decode.confine import confine, leave_network
from workers.decode.limits import Limits
from workers.decode.memory import map_shared
from workers.decode.picture import Picture
from workers.decode.protection import Protection, try_out

# How a child ended, as the worker hears it.
DONE = b"D"
KILLED = b"K"
TIMED_OUT = b"T"
FAILED = b"F"

_DESCRIPTORS = 3
_REQUEST_BYTES = wire.REQUEST_BYTES + max(reel.ASKED_BYTES, values.ASKED_BYTES)


@dataclass(frozen=True)
class Child:
    """One decoding process: what to answer to, and when (monotonic seconds) it must be over."""

    pid: int
    reply: socket.socket
    deadline: float


Asked = reel.Asked | values.Asked | wire.Reduced | None


def open_picture(file: BinaryIO, limits: Limits, *, side: int | None = None) -> Picture:
    """Recognise what the file is; `side` as for `open_raster`. Raises what the readers raise."""
    head = file.read(256)
    file.seek(0)
    if not dicom.is_dicom(head):
        try:
            return raster.open_raster(file.read(), limits, side=side)
        except Rejected as exc:
            if exc.reason is not Reason.NOT_AN_IMAGE or not dicom.may_be_bare_dicom(head):
                raise
        file.seek(0)
    return dicom.open_dicom(file, limits)


def decode_into(
    result_fd: int, content_fd: int, limits: Limits, *, side: int | None = None
) -> None:
    """Decode one file; write the answer, and pixels if there are any, into the result."""
    header = map_shared(result_fd, wire.HEADER_BYTES)
    answer = wire.pack_answer(_decode(result_fd, content_fd, limits, side))
    header[: len(answer)] = np.frombuffer(answer, np.uint8)


def look_into(result_fd: int, content_fd: int, limits: Limits, asked: reel.Asked) -> None:
    """Answer one question about a video; write the answer, and frames if any, into the result."""
    room = os.fstat(result_fd).st_size
    result = map_shared(result_fd, room)
    try:
        with open(content_fd, "rb", closefd=False) as file:
            found = video.answer(file, asked, limits, result[reel.HEADER_BYTES :])
    except Rejected as exc:
        found = reel.Answer(exc.reason, reel.no_rows())
    except MemoryError:
        found = reel.Answer(Reason.DECODE_MEMORY, reel.no_rows())
    except Exception:  # noqa: BLE001 - hostile input makes the codecs raise anything at all
        found = reel.Answer(Reason.DECODE_FAILED, reel.no_rows())
    answer = reel.pack_answer(found)
    result[: len(answer)] = np.frombuffer(answer, np.uint8)


def take_values_into(result_fd: int, content_fd: int, limits: Limits, asked: values.Asked) -> None:
    """Answer for some frames of a DICOM image; write the answer, values and pictures."""
    try:
        with open(content_fd, "rb", closefd=False) as file:
            found = dicom.answer_values(
                file, asked, limits, lambda size: map_shared(result_fd, size)
            )
    except Rejected as exc:
        found = values.Answer(exc.reason)
    except MemoryError:
        found = values.Answer(Reason.DECODE_MEMORY)
    except Exception:  # noqa: BLE001 - hostile input makes the codecs raise anything at all
        found = values.Answer(Reason.DECODE_FAILED)
    answer = values.pack_answer(found)
    header = map_shared(result_fd, values.HEADER_BYTES)
    header[: len(answer)] = np.frombuffer(answer, np.uint8)


def _decode(result_fd: int, content_fd: int, limits: Limits, side: int | None) -> wire.Answer:
    try:
        with open(content_fd, "rb", closefd=False) as file:
            picture = open_picture(file, limits, side=side)
            result = map_shared(result_fd, wire.result_bytes(picture.height, picture.width))
            shape = (picture.height, picture.width, 3)
            picture.paint(result[wire.HEADER_BYTES :].reshape(shape))
    except Rejected as exc:
        return wire.Answer(exc.reason)
    except MemoryError:
        return wire.Answer(Reason.DECODE_MEMORY)
    except Exception:  # noqa: BLE001 - hostile input makes the codecs raise anything at all
        return wire.Answer(Reason.DECODE_FAILED)
    return wire.Answer(
        None,
        picture.height,
        picture.width,
        picture.frames,
        picture.media_type,
        picture.modality,
        picture.burned_in,
        picture.copied_screen,
    )


def run_child(
    content_fd: int,
    result_fd: int,
    limits: Limits,
    protection: Protection,
    asked: Asked,
) -> NoReturn:
    """Confine this freshly forked process, decode, and end."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _keep_only(content_fd, result_fd)
        if confine(limits) or protection < Protection.LANDLOCKED:
            if asked is None:
                decode_into(result_fd, content_fd, limits)
            elif isinstance(asked, wire.Reduced):
                decode_into(result_fd, content_fd, limits, side=asked.side)
            elif isinstance(asked, values.Asked):
                take_values_into(result_fd, content_fd, limits, asked)
            else:
                look_into(result_fd, content_fd, limits, asked)
            status = 0
    finally:
        os._exit(status)


def _keep_only(*kept: int) -> None:
    """Close every descriptor but `kept` and the standard three, which lead to /dev/null."""
    edges = [2, *sorted(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
    for low, high in itertools.pairwise(edges):
        os.closerange(low + 1, high)


def serve(control: socket.socket, protection: Protection) -> None:
    """Fork one child per request and answer how each ended, until `control` is closed.

    A child that cannot be confined as well as the one that was tried decodes nothing.
    """
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write.fileno())
    children: dict[int, Child] = {}
    while True:
        timeout = min((c.deadline for c in children.values()), default=None)
        wait_s = None if timeout is None else max(0.0, timeout - time.monotonic())
        ready, _, _ = select.select([control, wake_read], [], [], wait_s)
        if wake_read in ready:
            wake_read.recv(4096)
        _reap(children)
        _kill_overdue(children)
        if control in ready:
            request, descriptors, _, _ = socket.recv_fds(control, _REQUEST_BYTES, _DESCRIPTORS)
            if not request:
                _kill_all(children)
                return
            limits = wire.unpack_request(request[: wire.REQUEST_BYTES])
            asked = _question(request[wire.REQUEST_BYTES :])
            child = _fork(limits, descriptors, protection, asked)
            children[child.pid] = child


def _question(raw: bytes) -> Asked:
    """Tell the questions apart by their length: they come from the worker, not from a file."""
    if not raw:
        return None
    if len(raw) == wire.REDUCED_BYTES:
        return wire.unpack_reduced(raw)
    return values.unpack_asked(raw) if len(raw) == values.ASKED_BYTES else reel.unpack_asked(raw)


def _fork(
    limits: Limits,
    descriptors: list[int],
    protection: Protection,
    asked: Asked,
) -> Child:
    content_fd, result_fd, reply_fd = descriptors
    deadline = time.monotonic() + limits.wall_s
    pid = os.fork()
    if pid == 0:
        run_child(content_fd, result_fd, limits, protection, asked)
    os.close(content_fd)
    os.close(result_fd)
    return Child(pid, socket.socket(fileno=reply_fd), deadline)


def _reap(children: dict[int, Child]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _answer(children.pop(pid), os.waitstatus_to_exitcode(status))


def _kill_overdue(children: dict[int, Child]) -> None:
    now = time.monotonic()
    for child in [child for child in children.values() if child.deadline <= now]:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        _answer(children.pop(child.pid), -signal.SIGXCPU)


def _kill_all(children: dict[int, Child]) -> None:
    for child in children.values():
        os.kill(child.pid, signal.SIGKILL)


def _answer(child: Child, exit_code: int) -> None:
    """Tell the worker how a child ended; a worker that is gone does not mind."""
    how = {0: DONE, -signal.SIGXCPU: TIMED_OUT, -signal.SIGKILL: KILLED}.get(exit_code, FAILED)
    with child.reply, contextlib.suppress(OSError):
        child.reply.send(how)


def main() -> None:
    """Load everything, then serve the socket named on the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    # ^C in a terminal reaches the whole group; the worker decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raster.preload()
    dicom.preload()
    video.preload()
    network_left = leave_network()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    # Children share these pages: nothing here is ever collected, so none is copied for it.
    gc.collect()
    gc.freeze()
    protection = try_out(network_left=network_left)
    control.send(bytes([protection or 0]))
    if protection:
        serve(control, protection)


if __name__ == "__main__":
    main()
