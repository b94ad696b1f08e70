"""Whatever the file, it gets one typed answer in time, and the worker goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import Reason, Rejected
from tests.decode import samples
from workers.decode import sandbox, wire
from workers.decode.limits import Limits
from workers.decode.sandbox import decode

ANSWER_S = 5.0
DEFAULT = Limits()
ASTRONAUT = samples.picture("astronaut.png")


def reason_for(content: bytes, limits: Limits = DEFAULT) -> Reason | None:
    """Return why a file is refused, None if it is not; it must be answered in time."""
    started = time.monotonic()
    try:
        decode(content, limits=limits)
    except Rejected as exc:
        return exc.reason
    finally:
        assert time.monotonic() - started <= ANSWER_S
    return None


def zygote_pid() -> int:
    decode(ASTRONAUT)
    assert sandbox._zygote is not None
    return sandbox._zygote.process.pid


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"\0", Reason.NOT_AN_IMAGE),
        (b"MZ" + bytes(2000), Reason.NOT_AN_IMAGE),
        (b"a letter, not a picture\n" * 100, Reason.NOT_AN_IMAGE),
        (b"%PDF-1.7\n" + ASTRONAUT, Reason.NOT_AN_IMAGE),
        (b"PK\x03\x04" + bytes(500) + ASTRONAUT, Reason.NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>" + bytes(200), Reason.NOT_AN_IMAGE),
        (bytes(4096), Reason.NOT_AN_IMAGE),
        (b"\x08\0\x05\0" + np.random.default_rng(0).bytes(4096), Reason.NOT_AN_IMAGE),
        (ASTRONAUT[:20], Reason.TRUNCATED),
        (ASTRONAUT[: len(ASTRONAUT) // 2], Reason.TRUNCATED),
        (samples.picture("retina.jpg")[:40_000], Reason.TRUNCATED),
        (samples.encode(samples.noise(64, 64), "WEBP")[:900], Reason.TRUNCATED),
        (samples.encode(samples.noise(64, 64), "BMP")[:900], Reason.TRUNCATED),
        (samples.encode(samples.noise(64, 64), "GIF")[:900], Reason.TRUNCATED),
        (samples.encode(samples.noise(1, 1)), Reason.TOO_SMALL),
        (samples.encode(samples.noise(15, 400)), Reason.TOO_SMALL),
        (samples.png_bomb(12_000, 12_000, bit_depth=1, colour=0), Reason.TOO_MANY_PIXELS),
        (samples.png_bomb(50_000, 150, bit_depth=8, colour=2), None),
        (samples.dicom("test-SR.dcm"), Reason.NO_PIXELS),
        (samples.dicom("rtplan.dcm"), Reason.NO_PIXELS),
        (samples.dicom("waveform_ecg.dcm"), Reason.NO_PIXELS),
        (samples.dicom("MR_truncated.dcm"), Reason.TRUNCATED),
        (samples.dicom("zipMR.gz"), Reason.NOT_AN_IMAGE),
        (
            samples.grey_dicom(np.zeros((64, 64), np.uint16), Rows=65535, Columns=65535),
            Reason.TOO_MANY_PIXELS,
        ),
        (
            samples.grey_dicom(np.zeros((64, 64), np.uint16), Rows=7000, Columns=7000),
            Reason.TRUNCATED,
        ),
        (
            samples.grey_dicom(np.zeros((64, 64), np.uint16), Rows=7100, Columns=7100),
            Reason.TOO_MANY_PIXELS,
        ),
        (samples.grey_dicom(np.zeros((64, 64), np.uint16), Rows=0), Reason.TOO_SMALL),
        (
            samples.grey_dicom(np.zeros((64, 64), np.uint16), NumberOfFrames=999_999_999),
            Reason.TOO_MANY_PIXELS,
        ),
    ],
    ids=lambda value: value.value if isinstance(value, Reason) else f"{len(value or b'')} bytes",
)
def test_every_bad_file_has_one_reason(content: bytes, reason: Reason | None) -> None:
    assert reason_for(content) is reason


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_by_its_header() -> None:
    bomb = samples.png_bomb(40_000, 40_000, bit_depth=1, colour=0)

    assert len(bomb) < 250_000
    assert reason_for(bomb) is Reason.TOO_MANY_PIXELS


def test_a_picture_that_does_not_fit_the_memory_limit_is_refused() -> None:
    bomb = samples.png_bomb(9_500, 9_500, bit_depth=8, colour=2)

    assert reason_for(bomb) is Reason.DECODE_MEMORY


def test_a_gif_with_a_huge_canvas_is_refused() -> None:
    gif = bytearray(samples.encode(samples.noise(64, 64), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"

    assert reason_for(bytes(gif)) is Reason.TOO_MANY_PIXELS


def test_a_picture_with_too_many_frames_is_refused() -> None:
    assert reason_for(samples.dicom("examples_ybr_color.dcm"), Limits(max_frames=29)) is (
        Reason.TOO_MANY_PIXELS
    )


@pytest.mark.parametrize("limits", [Limits(), Limits(wall_s=0.5)], ids=["cpu", "wall"])
def test_a_file_that_takes_too_long_is_given_up_and_its_process_ends(limits: Limits) -> None:
    slow = samples.progressive_jpeg_with_many_scans(6000, 2000)
    parent = zygote_pid()

    assert reason_for(slow, limits) is Reason.DECODE_TIMEOUT
    assert not Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")


def test_a_file_is_decoded_by_a_confined_process() -> None:
    slow = samples.progressive_jpeg_with_many_scans(6000, 2000)
    parent = zygote_pid()
    decoding = threading.Thread(target=reason_for, args=(slow, Limits(wall_s=1)))
    decoding.start()
    time.sleep(0.5)
    child = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").strip()
    status = Path(f"/proc/{child}/status").read_text(encoding="ascii")
    decoding.join()

    assert "NoNewPrivs:\t1" in status


def test_the_worker_survives_bad_files_and_decodes_the_next() -> None:
    for bad in (b"junk" * 100, ASTRONAUT[:3000], samples.dicom("badVR.dcm")):
        assert reason_for(bad) is not None

    assert decode(ASTRONAUT).pixels.shape == (512, 512, 3)


def test_a_decoder_process_that_dies_is_started_again() -> None:
    before = zygote_pid()
    os.kill(before, signal.SIGKILL)

    assert decode(ASTRONAUT).frames == 1
    assert zygote_pid() != before


def test_a_decoder_process_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = zygote_pid()
    monkeypatch.setattr(sandbox, "_ZYGOTE_ANSWER_S", 1.0)
    os.kill(before, signal.SIGSTOP)

    assert decode(ASTRONAUT, limits=Limits(wall_s=1)).frames == 1
    assert zygote_pid() != before


def test_several_threads_decode_at_once() -> None:
    shapes: list[tuple[int, ...]] = []

    def work() -> None:
        for _ in range(5):
            shapes.append(decode(ASTRONAUT).pixels.shape)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert shapes == [(512, 512, 3)] * 20


def test_a_file_costs_no_interpreter_start() -> None:
    small = samples.encode(samples.noise(64, 64))
    decode(small)
    started = time.monotonic()
    for _ in range(10):
        decode(small)

    assert (time.monotonic() - started) / 10 < 0.1


def test_a_forked_worker_decodes_with_a_process_of_its_own() -> None:
    before = zygote_pid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if zygote_pid() != before else 2
            os.kill(zygote_pid(), signal.SIGKILL)
        finally:
            os._exit(status)

    assert os.waitpid(pid, 0)[1] == 0
    assert decode(ASTRONAUT).frames == 1


def test_the_decoder_process_knows_none_of_the_appliances_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOISTER_SECRET", "do not pass on")
    os.kill(zygote_pid(), signal.SIGKILL)

    environment = Path(f"/proc/{zygote_pid()}/environ").read_bytes()

    assert b"CLOISTER_SECRET" not in environment


def test_the_decoder_process_has_left_our_network() -> None:
    ours = os.readlink("/proc/self/ns/net")

    assert os.readlink(f"/proc/{zygote_pid()}/ns/net") != ours


def test_the_decoder_process_ends_with_the_worker() -> None:
    script = (
        "import sys; from workers.decode import sandbox;"
        "sandbox.decode(sys.stdin.buffer.read());"
        "print(sandbox._zygote.process.pid)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], input=ASTRONAUT, stdout=subprocess.PIPE, check=True
    )
    pid = int(ended.stdout)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)

    assert not Path(f"/proc/{pid}").exists()


def test_the_decoder_process_holds_neither_web_nor_model_code() -> None:
    script = (
        "import sys; import workers.decode.zygote;"
        "print([m for m in ('django', 'torch', 'celery', 'onnxruntime') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert ran.stdout.strip() == "[]"


ANSWER = wire.Answer(None, 64, 64, 1, "image/png", "CT", False)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"X"),
        (8, b"reason nobody knows"),
        (40, b"\xff\xff\xff\xff"),
        (44, b"\0\0\0\0"),
        (48, b"\0\0\0\0"),
        (52, b"\xff"),
        (53, b"\x03"),
        (54, b"\x02"),
        (55, b"'; DROP"),
    ],
)
def test_an_answer_that_breaks_the_layout_is_refused(at: int, value: bytes) -> None:
    raw = bytearray(wire.pack_answer(ANSWER))
    assert wire.unpack_answer(bytes(raw), Limits()) == ANSWER
    raw[at : at + len(value)] = value

    with pytest.raises(wire.MalformedAnswerError):
        wire.unpack_answer(bytes(raw), Limits())


def test_a_child_that_answers_nothing_is_a_rejection() -> None:
    with (
        sandbox._memory_file("result", wire.result_bytes(64, 64)) as empty,
        pytest.raises(Rejected, match=Reason.DECODE_FAILED.value),
    ):
        sandbox._read(empty, Limits())


def test_a_child_cannot_shrink_the_memory_its_worker_reads() -> None:
    with sandbox._memory_file("result", 8192) as fd, pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
