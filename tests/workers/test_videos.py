"""A received video through the stages with their real parts, run here as the worker's role."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.db import IntegrityError, ProgrammingError, transaction

from retrieval import access, frames, look, outbox, queue, receive, storage
from retrieval.errors import AccessDenied, LeaseLost, Reason
from retrieval.frames import Moment
from retrieval.models import Collection, Image, Purpose, Stage, State, Work
from retrieval.models.image import TimeRange
from retrieval.queue import QueryVectors, ToEncode, Waiting
from retrieval.storage import Form
from tests import database
from tests.decode import videos
from tests.factories import make_collection, make_image, operator
from workers import query, stages, tasks
from workers.decode import footage
from workers.decode.footage import Stretch
from workers.decode.sandbox import decode
from workers.deidentify.faces import Face, Pixels, union
from workers.deidentify.moment import deidentify_moment
from workers.deidentify.verdict import PROFILES, Detectors

pytestmark = pytest.mark.usefixtures("db")
ADMINISTRATION = Purpose.ADMINISTRATION
PHOTOGRAPHS = PROFILES["photographs"]


def two_scenes() -> bytes:
    return videos.video(videos.walk(15) + videos.plain(10, (200, 30, 30)), sound=True)


def received(content: bytes, collection: Collection | None = None) -> Image:
    batch = receive.start_batch(
        collection or make_collection(), actor=operator(), purpose=ADMINISTRATION
    )
    video, _ = receive.receive(
        receive.Candidate("Jane Roe.mp4", lambda: io.BytesIO(content)),
        batch,
        actor=operator(),
        purpose=ADMINISTRATION,
    )
    return video


def run(stage: Stage) -> None:
    """What the nudges for all that is due at a stage do."""
    task = {Stage.DEIDENTIFY: tasks.deidentify, Stage.ENCODE: tasks.encode}[stage]
    with database.role("worker"):
        for work in Work.objects.filter(stage=stage).order_by("pk"):
            task(work.pk)


def images(collection: Collection) -> list[Image]:
    with access.acting_as(operator(), ADMINISTRATION):
        found = Image.objects.filter(collection=collection).order_by("frame_at_s")
        return list(found.select_related("collection", "video"))


def command(name: str, *arguments: str, **options: Any) -> Any:
    """A command's one JSON document."""
    out = io.StringIO()
    call_command(name, *arguments, stdout=out, json=True, **options)
    return json.loads(out.getvalue())


def test_an_imported_video_is_found_by_its_frames_with_their_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_here(parts: Sequence[ToEncode], **_: object) -> QueryVectors:
        (answer,) = query.encode([Waiting("", 1, "", list(parts))])
        assert isinstance(answer, QueryVectors)
        return answer

    monkeypatch.setattr(queue, "encode_query", encode_here)
    path = tmp_path / "Jane Roe.mp4"
    path.write_bytes(two_scenes())
    collection = make_collection("films")
    with database.role("worker"):
        stages.warm_up()

    under_way = command("import", str(path), collection="films")
    for stage in (Stage.DEIDENTIFY, Stage.DEIDENTIFY, Stage.ENCODE):
        run(stage)
    report = command("import", str(path), collection="films", wait=True)
    found = command("search", "a", "red", "wall", user="operator", purpose="HSYSADMIN")

    assert (under_way["received"], under_way["pending"], under_way["frames"]) == (1, 1, 0)
    assert (report["received"], report["indexed"], report["frames"]) == (1, 1, 2)
    assert report["review"] == report["pending"] == len(report["rejected"]) == 0
    times = [hit["time"] for hit in found["hits"]]
    assert times == [pytest.approx([1.5, 2.5], abs=0.06), pytest.approx([0, 1.5], abs=0.06)]
    assert {hit["source"] for hit in found["hits"]} == {"Jane Roe.mp4"}
    *shown, video = images(collection)
    assert [str(frame.time) for frame in shown] == ["0:00–0:01", "0:01–0:02"]
    for frame in shown:
        pixels = decode(storage.read(frame, Form.PREVIEW)).pixels
        assert union().detect(pixels) == []
        # What a reviewer's covers are drawn on: the frame alone, encrypted as any original.
        stretch = footage.frames_around(path.read_bytes(), frame.frame_at_s or 0.0)
        original = storage.read(frame, Form.ORIGINAL)
        assert np.array_equal(decode(original).pixels, stretch.frames[stretch.centre])
        assert original not in storage.path_of(frame.pk, Form.ORIGINAL).read_bytes()
    assert [bool(frame.faces) for frame in shown] == [True, False]
    assert video.state == State.SPLIT
    assert not storage.path_of(video.pk, Form.PREVIEW).exists()


def test_a_video_is_split_once() -> None:
    video = received(two_scenes())
    with database.role("worker"):
        slow = outbox.claim(Work.objects.get().pk)
        assert slow is not None
        Work.objects.update(lease_until=None)
    run(Stage.DEIDENTIFY)

    with database.role("worker"):
        with pytest.raises(LeaseLost):
            stages.deidentify(slow)
        again = [Moment(TimeRange(0.0, 1.5), 0.75)]
        with pytest.raises(IntegrityError), access.processing(video.collection_id):
            frames.split(video, again)
    assert [image.state for image in images(video.collection)] == [
        State.RECEIVED,
        State.RECEIVED,
        State.SPLIT,
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (two_scenes()[: len(two_scenes()) // 2], {Reason.TRUNCATED, Reason.DECODE_FAILED}),
        (b"\0\0\0\x18ftypisom" + bytes(200), {Reason.DECODE_FAILED, Reason.TRUNCATED}),
    ],
)
def test_a_video_that_cannot_be_read_is_rejected_with_one_reason(
    content: bytes, reason: set[Reason]
) -> None:
    video = received(content)

    run(Stage.DEIDENTIFY)

    (only,) = images(video.collection)
    assert only.state == State.REJECTED
    assert only.reason in reason
    with database.role("worker"):
        assert not Work.objects.exists()


def test_what_was_received_as_a_video_is_never_shown() -> None:
    video = make_image(make_collection(), state=State.SPLIT)

    with pytest.raises(AccessDenied):
        look.look_at(video.pk, actor=operator(), purpose=ADMINISTRATION)
    with pytest.raises(AccessDenied):
        look.picture(video.pk, Form.PREVIEW, actor=operator(), purpose=ADMINISTRATION)


def test_a_worker_makes_frames_and_receives_nothing() -> None:
    video = make_image(make_collection(), state=State.SPLIT)
    video.pk = None
    video.content_key = b"another"

    with (
        database.role("worker"),
        access.processing(video.collection_id),
        pytest.raises(ProgrammingError, match="row-level security"),
        transaction.atomic(),
    ):
        video.save(force_insert=True)


def test_a_frame_without_its_times_is_no_row() -> None:
    video = make_image(make_collection(), state=State.SPLIT)

    with pytest.raises(IntegrityError, match="frames_and_no_others_have_times"):
        make_image(video.collection, state=State.RECEIVED, video=video)


@pytest.mark.parametrize(
    ("states", "outcome"),
    [
        ([State.INDEXED, State.RECEIVED], State.RECEIVED),
        ([State.REVIEW, State.DEIDENTIFIED], State.RECEIVED),
        ([State.INDEXED, State.REVIEW], State.REVIEW),
        ([State.REJECTED, State.REVIEW], State.REVIEW),
        ([State.INDEXED, State.REJECTED], State.INDEXED),
        ([State.REJECTED, State.QUARANTINED], State.REJECTED),
    ],
)
def test_a_video_came_to_what_its_frames_came_to(states: list[State], outcome: State) -> None:
    video = make_image(make_collection(), state=State.SPLIT)
    for number, state in enumerate(states):
        frame_of(video, number, state)

    with access.acting_as(operator(), ADMINISTRATION):
        (file,) = frames.files(Image.objects.filter(collection=video.collection))
    assert (file.pk, file.outcome) == (video.pk, outcome)
    if outcome == State.REJECTED:
        assert file.outcome_reason == Reason.TRUNCATED


def frame_of(video: Image, number: int, state: State) -> Image:
    at: dict[str, Any] = {
        "starts_at_s": number,
        "frame_at_s": number + 0.5,
        "ends_at_s": number + 1,
    }
    reason = {State.REJECTED: Reason.TRUNCATED, State.QUARANTINED: Reason.THREE_STRIKES}
    return make_image(
        video.collection, state=state, video=video, reason=reason.get(state, ""), **at
    )


@dataclass(frozen=True)
class Fitful:
    """The real detector, which something befalls when it is shown one frame."""

    frame: Pixels
    befalls: Callable[[], list[Face]]
    name = "fitful"

    def detect(self, pixels: Pixels) -> list[Face]:
        if np.array_equal(pixels, self.frame):
            return self.befalls()
        return list(union().detect(pixels))


def walking() -> Stretch:
    return Stretch(np.stack(videos.walk(5)), (0.0, 0.1, 0.2, 0.3, 0.4), centre=2)


def test_a_face_that_is_lost_in_a_frame_is_covered_by_its_neighbours() -> None:
    stretch = walking()
    detector = Fitful(stretch.frames[2], list)

    covered = deidentify_moment(stretch, PHOTOGRAPHS, Detectors(detector))

    assert covered.verdict == "released"
    assert covered.boxes.faces
    assert union().detect(stretch.frames[2])
    assert union().detect(covered.pixels) == []


def test_a_face_that_is_found_is_not_told_again_by_its_neighbours() -> None:
    standing = Stretch(np.stack(videos.walk(1) * 5), (0.0, 0.1, 0.2, 0.3, 0.4), centre=2)

    covered = deidentify_moment(standing, PHOTOGRAPHS, Detectors(union()))

    assert len(covered.boxes.faces) == 1


def test_a_detector_that_fails_on_a_neighbour_shows_nothing() -> None:
    def fail() -> list[Face]:
        raise RuntimeError

    stretch = walking()
    detector = Fitful(stretch.frames[1], fail)

    covered = deidentify_moment(stretch, PHOTOGRAPHS, Detectors(detector))

    assert (covered.verdict, covered.reason) == ("review", Reason.DETECTOR_FAILED)
    assert not covered.pixels.any()
