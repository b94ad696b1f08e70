"""What a child under a file's control answers is checked: no value leads beyond its result."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from retrieval.errors import Reason, Rejected
from workers.decode import footage, reel, values
from workers.decode.limits import Limits
from workers.decode.reel import Kind
from workers.decode.wire import MalformedAnswerError

TIMES = np.repeat(np.array([[0.0], [0.04]]), 3, axis=1)
FRAMES = reel.Answer(None, TIMES, 32, 48, 1, "video/mp4", 25.0)
ASKED = reel.Asked(Kind.AFTER, -1.0, 2)
ROOM = reel.result_bytes(2, 32, 48)

VALUES = values.Answer(None, 5, 2, 32, 48, 1, "<u2", "MONOCHROME2", 12)
QUESTION = values.Asked(3, 2)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"X"),
        (8, b"reason nobody knows"),
        (40, struct.pack("<I", 3)),
        (44, struct.pack("<I", 8)),
        (44, struct.pack("<I", 1 << 30)),
        (48, struct.pack("<I", 49)),
        (52, struct.pack("<I", 2)),
        (56, b"\xff"),
        (57, struct.pack("<d", float("nan"))),
        (57, struct.pack("<d", 0.0)),
        (256, struct.pack("<d", 1.0)),
        (256, struct.pack("<d", float("nan"))),
        (256, struct.pack("<d", -1.0)),
    ],
)
def test_an_answer_about_a_video_that_breaks_the_layout_is_refused(at: int, value: bytes) -> None:
    raw = bytearray(reel.pack_answer(FRAMES))
    whole = reel.unpack_answer(bytes(raw), ASKED, Limits(), ROOM)
    assert (whole.height, whole.width, whole.rows.tolist()) == (32, 48, TIMES.tolist())
    raw[at : at + len(value)] = value

    with pytest.raises(MalformedAnswerError):
        reel.unpack_answer(bytes(raw), ASKED, Limits(), ROOM)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 10_001},
        {"frames": 4},
        {"count": 0},
        {"count": 3},
        {"height": 8},
        {"height": 70_000},
        {"width": 49},
        {"samples": 3},
        {"samples": 2},
        {"photometric": "RGB"},
        {"kind": "<f8"},
        {"bits_stored": 0},
        {"bits_stored": 17},
    ],
)
def test_an_answer_about_stored_values_that_breaks_the_layout_is_refused(
    wrong: dict[str, object],
) -> None:
    room = VALUES.result_bytes
    assert values.unpack_answer(values.pack_answer(VALUES), QUESTION, Limits(), room) == VALUES
    raw = values.pack_answer(replace(VALUES, **wrong))  # type: ignore[arg-type]

    with pytest.raises(MalformedAnswerError):
        values.unpack_answer(raw, QUESTION, Limits(), room)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, b"X"), (8, b"reason nobody knows"), (57, b"\xff"), (58, b"\xff"), (60, b"\2")],
)
def test_a_header_of_stored_values_that_breaks_the_layout_is_refused(at: int, value: bytes) -> None:
    raw = bytearray(values.pack_answer(VALUES))
    raw[at : at + len(value)] = value

    with pytest.raises(MalformedAnswerError):
        values.unpack_answer(bytes(raw), QUESTION, Limits(), VALUES.result_bytes)


def test_a_child_that_gives_the_same_frames_again_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = np.zeros((2, 32, 48, 3), np.uint8)
    monkeypatch.setattr(footage, "_ask", lambda *_, **__: (FRAMES, pixels))
    stretches = footage.all_frames(b"a video")
    next(stretches)

    with pytest.raises(Rejected, match=Reason.DECODE_FAILED.value):
        next(stretches)
