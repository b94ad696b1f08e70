"""Write frames as a WebM (VP9, libvpx, BSD) without sound or metadata, in a process of its own.

Started as `python -m workers.deidentify.webm PATH WIDTH HEIGHT`; on its input, for each frame, the
time in seconds as a little-endian double and the RGB pixels. No other process loads FFmpeg.
"""

import sys
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np

from workers.deidentify.frame_time import TIME

_MILLISECOND = Fraction(1, 1000)


def write(path: str, width: int, height: int, source: BinaryIO) -> None:
    """Encode what `source` holds, frame by frame, to its end."""
    with av.open(path, "w", format="webm", container_options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = _MILLISECOND
        stream.bit_rate = 0
        stream.options = {
            "deadline": "realtime",
            "cpu-used": "8",
            "crf": "30",
            "flags": "+bitexact",
        }
        last = -1
        while moment := source.read(TIME.size):
            pixels = np.frombuffer(source.read(3 * width * height), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels.reshape(height, width, 3), format="rgb24")
            last = max(last + 1, round(TIME.unpack(moment)[0] * 1000))
            frame.pts, frame.time_base = last, _MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.stdin.buffer)
