"""Small videos for tests: a face that moves over a background, cuts, sound, titles, rotation."""

import importlib.util
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
RATE = 10
SECRET = "Jane Roe 1957-03-02"


def _sample(name: str) -> Image.Image:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Image.open(Path(spec.origin).parent / "data" / name).convert("RGB")


def face(side: int = 96) -> Image.Image:
    """The astronaut's head, upright."""
    return _sample("astronaut.png").crop((150, 0, 310, 190)).resize((side, side * 19 // 16))


def walk(count: int = 20, *, width: int = 320, height: int = 240, step: int = 8) -> list[Pixels]:
    """A face that moves from left to right, (height, width, 3) each."""
    head = face()
    frames = []
    for number in range(count):
        picture = Image.new("RGB", (width, height), (70, 110, 90))
        picture.paste(head, (10 + number * step, 50))
        frames.append(np.asarray(picture))
    return frames


def plain(
    count: int, colour: Sequence[int], *, width: int = 320, height: int = 240
) -> list[Pixels]:
    return [np.full((height, width, 3), colour, np.uint8) for _ in range(count)]


def video(
    frames: Sequence[Pixels],
    *,
    format: str = "mp4",
    codec: str = "mpeg4",
    rate: int = RATE,
    times_s: Sequence[float] | None = None,
    sound: bool = False,
    gop: int = 12,
) -> bytes:
    """A video's bytes, with a title that names somebody."""
    out = io.BytesIO()
    with av.open(out, "w", format=format) as container:
        container.metadata["title"] = SECRET
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        stream.gop_size = gop
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "mpeg4":
            stream.options = {"qmax": "3"}
        tone: Any = container.add_stream("aac", rate=16000) if sound else None
        if tone:
            tone.metadata["title"] = SECRET
            samples = np.zeros((1, 16000), np.float32)
            block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            block.sample_rate = 16000
            for packet in [*tone.encode(block), *tone.encode(None)]:
                container.mux(packet)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            moment = number / rate if times_s is None else times_s[number]
            frame.pts, frame.time_base = round(moment * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def rotated(content: bytes, quarter_turns: int) -> bytes:
    """An MP4 whose display matrix turns the picture to the right, as a phone held upright says."""
    matrices = {
        1: (0, 1, -1, 0),
        2: (-1, 0, 0, -1),
        3: (0, -1, 1, 0),
    }
    a, b, c, d = (value * 0x10000 for value in matrices[quarter_turns])
    at = content.index(b"tkhd") + 4 + 40
    parts = (a, b, 0, c, d, 0, 0, 0, 0x40000000)
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in parts)
    return content[:at] + matrix + content[at + 36 :]
