"""Videos are taken apart by a confined process, and only their pictures."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import media
from retrieval.errors import Reason, Rejected
from tests.decode import videos
from workers.decode import footage
from workers.decode.limits import Limits


@pytest.fixture(scope="module")
def three_scenes() -> bytes:
    frames = videos.walk(15) + videos.plain(10, (200, 30, 30)) + videos.plain(8, (20, 30, 200))
    return videos.video(frames, sound=True)


@pytest.mark.parametrize(
    ("format", "codec", "media_type"),
    [
        ("mp4", "mpeg4", "video/mp4"),
        ("mov", "mpeg4", "video/mp4"),
        ("webm", "libvpx", "video/webm"),
        ("matroska", "ffv1", "video/webm"),
        ("avi", "mpeg4", "video/x-msvideo"),
    ],
)
def test_each_container_gives_every_frame_with_its_time(
    format: str,
    codec: str,
    media_type: str,
) -> None:
    walk = videos.walk(8)
    content = videos.video(walk, format=format, codec=codec)

    assert media.sniff_video(content[: media.HEAD_BYTES]) == media_type
    assert footage.survey(content).media_type == media_type
    (stretch,) = footage.all_frames(content)
    assert stretch.times_s == pytest.approx([number / videos.RATE for number in range(8)], abs=0.01)
    assert np.abs(stretch.frames.astype(int) - np.stack(walk)).mean() < 8


def test_every_scene_has_a_sample_and_their_ranges_fill_the_video(three_scenes: bytes) -> None:
    samples = footage.survey(three_scenes).samples

    assert [s.start_s for s in samples] == pytest.approx([0.0, 1.5, 2.5], abs=0.05)
    assert [s.end_s for s in samples] == pytest.approx([1.5, 2.5, 3.3], abs=0.05)


def test_a_long_scene_has_a_sample_every_so_often(three_scenes: bytes) -> None:
    samples = footage.survey(three_scenes, every_s=0.5).samples

    assert max(s.end_s - s.start_s for s in samples) <= 0.5 + 1e-6
    assert samples[0].start_s == 0
    assert samples[-1].end_s == pytest.approx(3.3, abs=0.05)


def test_samples_are_bounded_and_still_fill_the_video(three_scenes: bytes) -> None:
    samples = footage.survey(three_scenes, every_s=0.1, most=4).samples

    assert len(samples) == 4
    assert samples[-1].end_s == pytest.approx(3.3, abs=0.05)


def test_neighbours_come_with_a_sampled_frame(three_scenes: bytes) -> None:
    stretch = footage.frames_around(three_scenes, 0.75)

    assert stretch.times_s == pytest.approx([0.4, 0.6, 0.7, 0.8, 1.0], abs=0.01)
    assert stretch.centre == 2


@pytest.mark.parametrize(("turns", "steps"), [(1, -1), (2, 2), (3, 1)])
def test_frames_are_upright(turns: int, steps: int) -> None:
    walk = videos.walk(2)

    stretch = next(footage.all_frames(videos.rotated(videos.video(walk), turns)))

    expected = np.rot90(walk[0], steps)
    assert stretch.frames.shape[1:] == expected.shape
    assert np.abs(stretch.frames[0].astype(int) - expected).mean() < 8


def rejected(content: bytes, **options: Any) -> Reason:
    with pytest.raises(Rejected) as refusal:
        footage.survey(content, **options)
    return refusal.value.reason


def test_what_is_too_much_has_a_reason_of_its_own(three_scenes: bytes) -> None:
    assert rejected(three_scenes, max_duration_s=2.0) == Reason.VIDEO_TOO_LONG
    for limits, reason in (
        (Limits(cpu_s=30, max_frames=20), Reason.TOO_MANY_FRAMES),
        (Limits(cpu_s=30, max_pixels=10_000), Reason.TOO_MANY_PIXELS),
    ):
        with pytest.raises(Rejected) as refusal:
            footage.survey(three_scenes, limits=limits)
        assert refusal.value.reason == reason


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9])
def test_a_video_that_is_cut_off_is_rejected_and_nothing_crashes(
    three_scenes: bytes, share: float
) -> None:
    assert rejected(three_scenes[: int(len(three_scenes) * share)]) in set(Reason)


def test_damaged_videos_have_a_typed_end(three_scenes: bytes) -> None:
    rng = np.random.default_rng(3)
    moov = three_scenes.index(b"moov")
    for _ in range(12):
        broken = bytearray(three_scenes)
        for at in rng.integers(moov, len(broken), 12):
            broken[at] = rng.integers(256)
        with contextlib.suppress(Rejected):
            footage.survey(bytes(broken))
            footage.frames_around(bytes(broken), 1.0)


def test_sizes_a_header_only_claims_are_not_believed(three_scenes: bytes) -> None:
    at = three_scenes.index(b"mp4v") + 4 + 24
    huge = three_scenes[:at] + b"\xff\xff\xff\xff" + three_scenes[at + 4 :]

    with contextlib.suppress(Rejected):
        assert footage.survey(huge).width <= 4096


def test_a_million_claimed_frames_are_refused(three_scenes: bytes) -> None:
    at = three_scenes.index(b"stsz") + 4 + 4
    claimed = (1).to_bytes(4, "big") + (1_000_000).to_bytes(4, "big")

    assert rejected(three_scenes[:at] + claimed + three_scenes[at + 8 :]) in {
        Reason.TOO_MANY_FRAMES,
        Reason.TRUNCATED,
        Reason.DECODE_FAILED,
    }


def test_a_list_of_other_files_is_no_video() -> None:
    for content in (b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"):
        assert rejected(content) == Reason.NOT_AN_IMAGE


def with_box(content: bytes, path: list[bytes], box: bytes, *, before: bytes = b"") -> bytes:
    """An MP4 with `box` put into the box at `path`, at its end or in place of its child `before`.

    PyAV writes `moov` last, so nothing that offsets point at moves.
    """
    at, end, sizes_at = 0, len(content), []
    for name in path:
        at = content.index(name, at, end) - 4
        sizes_at.append(at)
        end = at + int.from_bytes(content[at : at + 4], "big")
        at += 8
    start = end
    if before:
        start = content.index(before, at, end) - 4
        end = start + int.from_bytes(content[start : start + 4], "big")
    changed = bytearray(content[:start] + box + content[end:])
    for size_at in sizes_at:
        size = int.from_bytes(content[size_at : size_at + 4], "big") + len(box) - (end - start)
        changed[size_at : size_at + 4] = size.to_bytes(4, "big")
    return bytes(changed)


def box(name: bytes, body: bytes) -> bytes:
    return (len(body) + 8).to_bytes(4, "big") + name + body


TRACK = [b"moov", b"trak"]
SAMPLES = [*TRACK, b"mdia", b"minf", b"stbl"]


def test_a_reference_into_another_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(videos.video(videos.plain(3, (200, 30, 30))))
    path = str(other).encode()
    alias = bytes(4 + 10 + 1 + 27 + 12 + 1 + 63 + 16) + b"\0\x01\0\x01" + bytes(16)
    alias += (
        b"\0\x02" + len(path).to_bytes(2, "big") + path + bytes(len(path) % 2) + b"\xff\xff\0\0"
    )
    reference = box(b"dref", bytes(4) + (1).to_bytes(4, "big") + box(b"alis", alias))
    green = videos.video(videos.plain(3, (30, 200, 30)))
    content = with_box(green, [*TRACK, b"mdia", b"minf", b"dinf"], reference, before=b"dref")

    with contextlib.suppress(Rejected):
        for stretch in footage.all_frames(content):
            assert (stretch.frames[..., 1] > stretch.frames[..., 0]).all()


def test_a_video_of_no_duration_has_an_end() -> None:
    table = bytes(4) + (1).to_bytes(4, "big") + (5).to_bytes(4, "big") + bytes(4)
    content = with_box(videos.video(videos.walk(5)), SAMPLES, box(b"stts", table), before=b"stts")

    with contextlib.suppress(Rejected):
        (sample,) = footage.survey(content).samples
        assert sample.start_s <= sample.at_s <= sample.end_s < 1
        assert sum(len(stretch.frames) for stretch in footage.all_frames(content)) <= 5


def test_an_edit_list_that_plays_one_scene_for_ever_is_refused() -> None:
    once = (500).to_bytes(4, "big") + (0).to_bytes(4, "big") + b"\0\x01\0\0"
    edits = box(b"elst", bytes(4) + (5000).to_bytes(4, "big") + once * 5000)
    plain = videos.video(videos.walk(5))
    before = b"edts" if b"edts" in plain else b""
    content = with_box(plain, TRACK, box(b"edts", edits), before=before)

    assert rejected(content, max_duration_s=60.0, limits=Limits(cpu_s=8, wall_s=10.0)) in {
        Reason.VIDEO_TOO_LONG,
        Reason.TOO_MANY_FRAMES,
        Reason.DECODE_TIMEOUT,
        Reason.DECODE_FAILED,
        Reason.DECODE_MEMORY,
        Reason.TRUNCATED,
    }
