"""Videos are taken apart by a confined process, and only their pictures."""

import contextlib

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


def rejected(content: bytes, **options: float) -> Reason:
    with pytest.raises(Rejected) as refusal:
        footage.survey(content, **options)  # type: ignore[arg-type]
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
