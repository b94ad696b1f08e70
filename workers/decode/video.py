"""Video, read by FFmpeg through PyAV. Runs inside the sandbox only.

The first picture stream is demultiplexed and nothing else: sound, subtitles, attachments, chapters
and metadata never reach a decoder. Readers and decoders are named one by one, so that none that
follows a reference into another file is ever tried.
"""

import importlib
import itertools
import math
import pkgutil
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from retrieval.errors import Reason, Rejected
from retrieval.media import sniff_video
from workers.decode.limits import Limits
from workers.decode.picture import Pixels, check_size
from workers.decode.reel import MEDIA_TYPES, Answer, Asked, Kind

MP4, WEBM, AVI = MEDIA_TYPES
_READERS = {MP4: "mov", WEBM: "matroska", AVI: "avi"}
_DECODERS = frozenset(
    {"h264", "hevc", "mpeg4", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d", "mjpeg"}
    | {"mpeg1video", "mpeg2video", "msmpeg4", "msmpeg4v2", "msmpeg4v1", "h263", "flv", "dvvideo"}
    | {"prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "cinepak", "qtrle"}
    | {"png", "wmv1", "wmv2", "wmv3", "vc1", "theora", "v210"}
)

# A change of scene: this share of the pixels left its bin of grey and colour. Unlike scenedetect's
# readers, which open a path with OpenCV, this works on frames that are decoded anyway.
_SCENE_CHANGE = 0.35
_BINS = 16
_SMALL = (64, 48)
# Below so many pixels in all, every frame is looked at for a change of scene; above, key frames.
_LOOK_AT_ALL_PIXELS = 1_500_000_000
# After so much processor time the rest of a video is sampled by time alone.
_LOOK_S = 12.0
_BEFORE, _AFTER = 3, 3
_OFFSETS = (-3, -1, 0, 1, 3)
_DEFAULT_RATE = 25.0


def preload() -> None:
    """Load every part now: a confined process cannot open the files they are in.

    FFmpeg is silenced, because its messages quote metadata.
    """
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name != "av.__main__":
            importlib.import_module(module.name)
    av.logging.set_level(None)


@dataclass(frozen=True)
class Film:
    """An opened video. origin_s: the time of its first frame, from which all times count."""

    container: InputContainer
    stream: VideoStream
    media_type: str
    height: int
    width: int
    frames_per_s: float
    origin_s: float
    turn: "Turn"


@dataclass(frozen=True)
class Turn:
    """How a stored frame becomes an upright one: transposed first, then mirrored."""

    transposed: bool = False
    left_right: bool = False
    up_down: bool = False

    def apply(self, pixels: Pixels) -> Pixels:
        """pixels: (H, W, 3). Returns a view."""
        out = pixels.transpose(1, 0, 2) if self.transposed else pixels
        out = out[:, ::-1] if self.left_right else out
        return out[::-1] if self.up_down else out


def answer(file: BinaryIO, asked: Asked, limits: Limits, pixels: Pixels | None) -> Answer:
    """Answer one question about a video; its frames, if it asked for any, go into `pixels`.

    pixels: flat uint8. Raises Rejected: NOT_AN_IMAGE, NO_PIXELS, TRUNCATED, TOO_SMALL,
    TOO_MANY_PIXELS, TOO_MANY_FRAMES, VIDEO_TOO_LONG. What PyAV raises on damage passes through.
    """
    film = open_film(file, limits)
    if asked.kind is Kind.SURVEY or pixels is None:
        return _survey(film, asked, limits)
    size = 3 * film.height * film.width
    fits = min(asked.count, len(pixels) // size)
    if asked.kind is Kind.AROUND:
        chosen, centre = _around(film, asked.moment_s)
    else:
        chosen, centre = itertools.islice(_after(film, asked.moment_s), fits), 0
    times = []
    for (moment_s, frame), start in zip(chosen, itertools.count(0, size), strict=False):
        shape = (film.height, film.width, 3)
        pixels[start : start + size].reshape(shape)[:] = _upright(frame, film)
        times.append((moment_s, moment_s, moment_s))
    rows = np.array(times, np.float64).reshape(-1, 3)
    return Answer(None, rows, film.height, film.width, centre, film.media_type, film.frames_per_s)


def open_film(file: BinaryIO, limits: Limits) -> Film:
    """Open a video and decode its first frame. Raises as `answer`."""
    media_type = sniff_video(file.read(64))
    file.seek(0)
    if media_type is None:
        raise Rejected(Reason.NOT_AN_IMAGE)
    container = av.open(
        file,
        "r",
        format=_READERS[media_type],
        # Whatever a file refers to, there is no protocol to fetch it with.
        container_options={"protocol_whitelist": "none", "enable_drefs": "0"},
        metadata_errors="replace",
    )
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not pictures:
        raise Rejected(Reason.NO_PIXELS)
    stream = pictures[0]
    context = stream.codec_context
    if context is None or context.codec.name not in _DECODERS:
        raise Rejected(Reason.DECODE_FAILED)
    # A confined process can start no thread.
    context.thread_count = 1
    if context.width and context.height:
        check_size(context.height, context.width, 1, limits)
    if stream.frames > limits.max_frames:
        raise Rejected(Reason.TOO_MANY_FRAMES)
    first = next(_decode(container, stream), None)
    if first is None:
        raise Rejected(Reason.TRUNCATED)
    turn = _turn(first)
    height, width = first.height, first.width
    if turn.transposed:
        height, width = width, height
    check_size(height, width, 1, limits)
    rate = float(stream.average_rate or stream.guessed_rate or 0.0)
    return Film(
        container,
        stream,
        media_type,
        height,
        width,
        rate if 0 < rate <= 1000 else _DEFAULT_RATE,  # noqa: PLR2004 - what reel accepts
        float(first.time or 0.0),
        turn,
    )


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame from where the container stands. A damaged packet costs its frames only."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _after(film: Film, moment_s: float) -> Iterator[tuple[float, VideoFrame]]:
    """Each frame later than `moment_s`, with its time; frames that share a time are one."""
    last_s = -math.inf
    for at_s, frame in _from(film, moment_s):
        if at_s > moment_s and at_s > last_s:
            last_s = at_s
            yield at_s, frame


def _around(film: Film, moment_s: float) -> tuple[Iterator[tuple[float, VideoFrame]], int]:
    """The frame shown at `moment_s` and its neighbours, in order; and which of them it is."""
    seen: deque[tuple[float, VideoFrame]] = deque(maxlen=_BEFORE + 1)
    later: list[tuple[float, VideoFrame]] = []
    for at_s, frame in _from(film, moment_s - (_BEFORE + 1) / film.frames_per_s):
        if at_s <= moment_s or not seen:
            seen.append((at_s, frame))
        else:
            later.append((at_s, frame))
        if len(later) == _AFTER:
            break
    if not seen:
        raise Rejected(Reason.TRUNCATED)
    centre = len(seen) - 1
    frames = [*seen, *later]
    wanted = sorted({min(max(0, centre + offset), len(frames) - 1) for offset in _OFFSETS})
    return (frames[at] for at in wanted), wanted.index(centre)


def _from(film: Film, moment_s: float) -> Iterator[tuple[float, VideoFrame]]:
    """Frames and their times, from the last key frame before `moment_s` or from the beginning."""
    base = film.stream.time_base
    if moment_s <= 0 or base is None:
        film.container.seek(0)
    else:
        offset = math.floor((moment_s + film.origin_s) / float(base))
        try:
            film.container.seek(offset, stream=film.stream)
        except av.error.FFmpegError:
            film.container.seek(0)
    for number, frame in enumerate(_decode(film.container, film.stream)):
        at_s = frame.time
        if at_s is None:
            # Without times a seek would lose count.
            if moment_s > 0 and number == 0:
                raise Rejected(Reason.DECODE_FAILED)
            at_s = number / film.frames_per_s
        yield max(0.0, at_s - film.origin_s), frame


def _upright(frame: VideoFrame, film: Film) -> Pixels:
    """(H, W, 3) uint8 RGB. A stream that changes its size midway keeps that of its first frame."""
    width, height = film.width, film.height
    if film.turn.transposed:
        width, height = height, width
    rgb = frame.reformat(width=width, height=height, format="rgb24", threads=1).to_ndarray()
    return film.turn.apply(np.asarray(rgb, np.uint8))


def _turn(frame: VideoFrame) -> Turn:
    """Read the display matrix (ISO/IEC 14496-12 6.2.2): columns are where x and y end up."""
    # Keyed by type, whatever its annotations say.
    side_data: Any = frame.side_data
    matrix = side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return Turn()
    a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(matrix), "<i4", 5))
    if abs(a) >= abs(b):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


def _survey(film: Film, asked: Asked, limits: Limits) -> Answer:
    """Divide the video into scenes, and scenes into stretches of at most `asked.every_s`.

    Measured by the packets that are there, not by what the header says.
    """
    packets, end_s = 0, 0.0
    film.container.seek(0)
    base = float(film.stream.time_base or 0)
    for packet in film.container.demux(film.stream):
        if packet.size == 0:
            continue
        packets += 1
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None:
            end_s = max(end_s, stamp * base - film.origin_s)
        if packets > limits.max_frames:
            raise Rejected(Reason.TOO_MANY_FRAMES)
        if end_s > asked.max_duration_s:
            raise Rejected(Reason.VIDEO_TOO_LONG)
    if film.media_type == MP4 and packets < film.stream.frames:
        raise Rejected(Reason.TRUNCATED)
    end_s = max(end_s, (packets - 1) / film.frames_per_s if base == 0 else 0.0)
    end_s += 1 / film.frames_per_s
    key_frames_only = packets * film.height * film.width > _LOOK_AT_ALL_PIXELS
    cuts = [cut for cut in _scene_changes(film, key_frames_only) if cut < end_s]
    rows = samples(cuts, end_s, every_s=asked.every_s, most=asked.count)
    return Answer(None, rows, film.height, film.width, 0, film.media_type, film.frames_per_s)


def samples(
    cuts: list[float], end_s: float, *, every_s: float, most: int
) -> npt.NDArray[np.float64]:
    """Return (N, 3) seconds: start, end and middle of stretches that fill [0, end_s] in order.

    cuts: where a new scene begins, ascending. One stretch at least per scene and per `every_s`,
    `most` in all: where there would be more, neighbours are joined.
    """
    edges = [0.0]
    for start, end in itertools.pairwise([0.0, *cuts, end_s]):
        parts = max(1, math.ceil((end - start) / every_s))
        edges += [start + (end - start) * part / parts for part in range(1, parts + 1)]
    if len(edges) - 1 > most:
        edges = [edges[at] for at in np.linspace(0, len(edges) - 1, most + 1).round().astype(int)]
    ends = np.array(edges)
    return np.stack([ends[:-1], ends[1:], (ends[:-1] + ends[1:]) / 2], axis=1)


def _scene_changes(film: Film, key_frames_only: bool) -> list[float]:
    """Times at which a frame differs from the one before in its distribution of colours."""
    context = film.stream.codec_context
    context.skip_frame = "NONKEY" if key_frames_only else "DEFAULT"
    started = time.process_time()
    changes: list[float] = []
    before: npt.NDArray[np.float64] | None = None
    for at_s, frame in _from(film, 0.0):
        now = _distribution(frame)
        if before is not None and np.abs(now - before).sum() / 2 > _SCENE_CHANGE and at_s > 0:
            changes.append(at_s)
        before = now
        if time.process_time() - started > _LOOK_S:
            break
    return sorted(set(changes))


def _distribution(frame: VideoFrame) -> npt.NDArray[np.float64]:
    """(3 * _BINS,) shares of the pixels in each bin of luma and chroma, one in all."""
    small = frame.reformat(width=_SMALL[0], height=_SMALL[1], format="yuv444p", threads=1)
    planes = small.to_ndarray().reshape(3, -1)
    counts = [np.bincount(plane // (256 // _BINS), minlength=_BINS) for plane in planes]
    return np.concatenate(counts) / planes.size
