"""Time and peak memory of the decoding process: `python -m tests.decode.measure_hostile FOLDER`.

`python -m tests.decode.hostile FOLDER` writes files to measure. It is another program because this
one is the size of the process that children are forked from, and their memory counts with it.
"""

import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import Rejected
from workers.decode import dicom, raster, video, wire, zygote
from workers.decode.confine import leave_network
from workers.decode.limits import Limits
from workers.decode.protection import try_out
from workers.decode.sandbox import _memory_file, _read


def files() -> Iterator[tuple[str, bytes]]:
    for path in sorted(Path(sys.argv[1]).rglob("*")):
        if path.is_file():
            yield path.name, path.read_bytes()


def main() -> None:
    raster.preload()
    dicom.preload()
    video.preload()
    limits = Limits()
    protection = try_out(network_left=leave_network())
    assert protection
    rows = []
    for name, content in files():
        with (
            _memory_file("content", len(content)) as content_fd,
            _memory_file("result", wire.result_bytes(1, limits.max_pixels)) as result_fd,
        ):
            os.pwrite(content_fd, content, 0)
            started = time.monotonic()
            pid = os.fork()
            if pid == 0:
                zygote.run_child(content_fd, result_fd, limits, protection, None)
            # As the zygote does it.
            watched = os.pidfd_open(pid)
            if not select.select([watched], [], [], limits.wall_s)[0]:
                os.kill(pid, signal.SIGKILL)
            os.close(watched)
            _, status, usage = os.wait4(pid, 0)
            seconds = time.monotonic() - started
            verdict = f"ended {os.waitstatus_to_exitcode(status)}"
            if status == 0:
                try:
                    shape = _read(result_fd, limits).pixels.shape
                    verdict = f"pixels {shape[1]} × {shape[0]}"
                except Rejected as exc:
                    verdict = exc.reason.value
        rows.append((name, verdict, seconds, usage.ru_maxrss * 1024 / 1e6))
        sys.stdout.write(
            f"{seconds:6.2f} s {usage.ru_maxrss * 1024 / 1e6:5.0f} MB  {verdict:24}  {name}\n"
        )
    sys.stdout.write(
        f"{len(rows)} files; "
        f"worst {max(r[2] for r in rows):.2f} s, {max(r[3] for r in rows):.0f} MB; "
        f"{dict(Counter(r[1].split()[0] for r in rows))}\n"
    )


if __name__ == "__main__":
    main()
