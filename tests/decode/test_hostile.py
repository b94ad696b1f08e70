"""Whatever a file is made to do, it gets one typed answer, in time, and harms nobody after it."""

import gc
import os
import time
from pathlib import Path

import pytest

from retrieval.errors import Reason, Rejected
from tests.decode import hostile, samples
from workers.decode import sandbox
from workers.decode.limits import Limits
from workers.decode.sandbox import Decoded, decode

# Under the default limits, whose end is tried in test_sandbox.py, all would take a minute.
SHORT = Limits(cpu_s=1, wall_s=1.5)
ANSWER_S = 2.5
ASTRONAUT = samples.picture("astronaut.png")
# Strange, and pictures all the same; every other file of hostile.py must be refused.
PICTURES = {
    "apng: 4 billion frames",
    "apng: 9,999 frames that are not there",
    "avif: noise",
    "DICOM that is a program, too",
    "DICOM that is a TIFF, too",
    "dicom: PixelPaddingValue is 65535",
    "dicom: RescaleSlope is '1e308'",
    "dicom: SpecificCharacterSet is 'ISO 2022 IR 9999'",
    "dicom: WindowWidth is '-1e300'",
    "dicom: WindowWidth is '0'",
    "gif: 300 frames of 4,000 × 4,000",
    "gif: 9,000 small frames",
    "jpeg: 20,000 comments",
    "jpeg: EXIF directory that is its own successor",
    "jpeg: EXIF of 4 billion values",
    "jpeg: EXIF pointing at itself",
    "jpeg: orientation 9,999",
    "jpeg: orientation of many kinds",
    "jpeg: profile in 255 parts, most missing",
    "jpeg: profile of noise",
    "jpeg: second picture beyond the end",
    "picture and archive",
    "picture and page",
    "picture with a page in its comment",
    "png: 200,000 chunks",
    "png: a thousand headers",
    "png: black and white within the limit",
    "png: packed pixels for a small picture",
    "tiff: a directory that is its own successor",
    "tiff: a strip of 4 GB",
    "tiff: a tile of 4 billion",
    "tiff: EXIF in a circle",
    "tiff: fax of noise",
    "webp: lossless bomb",
    "webp: profile of noise",
}


def answer(content: bytes) -> Decoded | Reason:
    started = time.monotonic()
    try:
        return decode(content, limits=SHORT)
    except Rejected as exc:
        return exc.reason
    finally:
        assert time.monotonic() - started <= ANSWER_S


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", hostile.FILES)
def test_a_hostile_file_is_answered_in_time(name: str) -> None:
    given = answer(hostile.FILES[name]())

    assert isinstance(given, Reason) or name in PICTURES


def test_a_picture_cut_short_is_never_shown() -> None:
    given = {name: answer(content) for name, content in hostile.cut_short()}

    assert len(given) == 9 * 9
    assert not [name for name, what in given.items() if isinstance(what, Decoded)]


def test_hostile_files_leave_nothing_behind() -> None:
    decode(ASTRONAUT)
    assert sandbox._zygote is not None
    decoder = sandbox._zygote.process.pid

    def held() -> tuple[int, int, int, str]:
        resident = int(Path(f"/proc/{decoder}/statm").read_text(encoding="ascii").split()[1])
        children = Path(f"/proc/{decoder}/task/{decoder}/children").read_text(encoding="ascii")
        own = len(os.listdir("/proc/self/fd"))
        return own, len(os.listdir(f"/proc/{decoder}/fd")), resident, children

    gc.collect()
    own_before, fds_before, pages_before, _ = held()
    for content in (b"\xff", hostile.PNG[:99], hostile.nested(900), samples.HEIC[:-120]) * 10:
        answer(content)

    gc.collect()
    own, fds, pages, children = held()
    assert own <= own_before
    assert fds == fds_before
    assert (pages - pages_before) * os.sysconf("SC_PAGESIZE") < 8 * 1024**2
    assert not children
    assert sandbox._zygote.process.pid == decoder
    assert decode(ASTRONAUT).pixels.shape == (512, 512, 3)
