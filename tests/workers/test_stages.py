"""The stages with their real parts, run in this process as the worker's role."""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from django.forms.models import model_to_dict
from django.utils import timezone
from PIL import Image as Picture

from retrieval import access, index, outbox, receive, storage, upkeep
from retrieval.errors import LeaseLost, NotDeidentified, Reason
from retrieval.models import (
    Collection,
    Embedding,
    EncoderVersion,
    Image,
    PrivacyProfile,
    Purpose,
    Stage,
    State,
    Work,
)
from retrieval.storage import Form
from tests import database
from tests.deidentify.test_verdict import Scripted
from tests.deidentify.writing import written
from tests.factories import make_collection, make_encoder, make_image, operator, png
from workers import stages, tasks
from workers.decode.sandbox import decode
from workers.deidentify.derivative import encode_preview
from workers.deidentify.faces import Face, union
from workers.deidentify.verdict import Detectors, Profile
from workers.encode import regions
from workers.encode.encoder import Encoder, Vectors
from workers.encode.registry import CLASSIC, EMBEDDED, load

pytestmark = pytest.mark.usefixtures("db")


def astronaut() -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "astronaut.png"


def received(content: Path, profile: str = "photographs") -> Image:
    collection = make_collection(profile=profile)
    batch = receive.start_batch(collection, actor=operator(), purpose=Purpose.ADMINISTRATION)
    image, _ = receive.receive(
        receive.Candidate("Jane Roe.png", lambda: content.open("rb")),
        batch,
        actor=operator(),
        purpose=Purpose.ADMINISTRATION,
    )
    return image


@pytest.fixture
def worker(db: None) -> Iterator[None]:
    with database.role("worker"):
        yield


@pytest.fixture
def portrait(db: None) -> Image:
    """A picture with one face, received and due."""
    return received(astronaut())


@pytest.fixture
def encoder(portrait: Image, worker: None) -> Encoder:
    stages.warm_up()
    return stages.encoder_of(index.live_encoder())


def run(stage: Stage) -> None:
    """What a nudge for the one piece of work of this stage does."""
    task = {Stage.DEIDENTIFY: tasks.deidentify, Stage.ENCODE: tasks.encode}[stage]
    task(Work.objects.get(stage=stage).pk)


def fresh(image: Image) -> Image:
    with access.processing(image.collection_id):
        return Image.objects.get(pk=image.pk)


def vector_of(image: Image) -> np.ndarray:
    with access.processing(image.collection_id):
        vectors = index.vectors_among(
            [image.pk], within=[image.collection_id], encoder=index.live_encoder()
        )
    return vectors[image.pk]


def embed(encoder: Encoder, content: bytes) -> np.ndarray:
    (vector,) = encoder.encode_images(encoder.preprocess([decode(content).pixels]))
    return np.asarray(vector)


def test_only_covered_pixels_are_ever_encoded(portrait: Image, encoder: Encoder) -> None:
    run(Stage.DEIDENTIFY)
    run(Stage.ENCODE)

    stored = vector_of(portrait)
    covered = storage.read(portrait, Form.PREVIEW)
    assert fresh(portrait).state == State.INDEXED
    assert float(stored @ embed(encoder, covered)) > 0.999
    assert float(stored @ embed(encoder, astronaut().read_bytes())) < 0.99


def test_parts_have_vectors_where_the_collection_wants_them(portrait: Image) -> None:
    Collection.objects.filter(pk=portrait.collection_id).update(finds_parts=True)
    with database.role("worker"):
        stages.warm_up()
        encoder = stages.encoder_of(index.live_encoder())
        run(Stage.DEIDENTIFY)
        run(Stage.ENCODE)
        with access.processing(portrait.collection_id):
            whole, *parts = Embedding.objects.filter(image_id=portrait.pk).order_by("region")
        shown = decode(storage.read(portrait, Form.PREVIEW)).pixels

    assert whole.box is None
    assert [tuple(part.box or ()) for part in parts] == [
        (0, 0, 307, 307),
        (205, 0, 307, 307),
        (0, 205, 307, 307),
        (205, 205, 307, 307),
    ]
    corner = stages.embed(encoder, shown[205:, 205:])
    (expected,) = regions.leaning(corner[None], stages.embed(encoder, shown))
    assert float(np.asarray(parts[-1].vector, np.float32) @ expected) > 0.999


def test_no_face_is_left_in_what_is_shown(portrait: Image, worker: None) -> None:
    run(Stage.DEIDENTIFY)

    for form in (Form.PREVIEW, Form.THUMBNAIL):
        shown = decode(storage.read(portrait, form)).pixels
        assert union().detect(shown) == []
    assert len(fresh(portrait).faces) == 1


@pytest.mark.parametrize(("profile", "stays"), [("clinical", False), ("documents", True)])
def test_a_profile_decides_whether_writing_is_in_what_is_shown(
    db: None, tmp_path: Path, profile: str, stays: bool
) -> None:
    path = tmp_path / "label.png"
    plain = np.full((200, 320, 3), 30, np.uint8)
    burned = written(plain, "MUELLER, Jane", (30, 40), size=24)
    ink = (burned.astype(int) - plain > 128).any(axis=2)
    Picture.fromarray(burned).save(path)
    image = received(path, profile)

    with database.role("worker"):
        run(Stage.DEIDENTIFY)
        shown = decode(storage.read(image, Form.PREVIEW)).pixels
        stored = fresh(image)

    boxes = stored.text
    assert stored.state == State.DEIDENTIFIED
    assert bool((shown[ink] > 60).any()) is stays
    assert bool(boxes) is not stays
    for box in boxes:
        x, y, w, h = box["box"]
        assert 0 <= x < x + w <= 320
        assert 0 <= y < y + h <= 200
    if not stays:
        x, y, w, h = boxes[0]["box"]
        assert x <= 34
        assert x + w >= 180


def test_a_task_run_twice_leaves_one_row(portrait: Image, encoder: Encoder) -> None:
    run(Stage.DEIDENTIFY)
    work = Work.objects.get(stage=Stage.ENCODE)
    run(Stage.ENCODE)

    tasks.encode(work.pk)
    with access.processing(portrait.collection_id):
        Work.objects.create(
            image=portrait, collection_id=portrait.collection_id, stage=Stage.ENCODE
        )
    run(Stage.ENCODE)

    with access.processing(portrait.collection_id):
        assert Embedding.objects.filter(collection_id=portrait.collection_id).count() == 1
    assert not Work.objects.exists()


@pytest.mark.parametrize("state", sorted(set(State) - {State.DEIDENTIFIED, State.INDEXED}))
def test_an_image_that_is_not_deidentified_gets_no_vector(state: State) -> None:
    encoder = make_encoder()
    image = make_image(make_collection(), state=state)

    with (
        database.role("worker"),
        access.processing(image.collection_id),
        pytest.raises(NotDeidentified),
    ):
        index.store(image, np.array([1, 0, 0], np.float32), encoder=encoder)


def test_a_face_that_is_still_found_sends_the_image_to_review(
    portrait: Image, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Scripted([[Face((x, 300, 30, 30), 0.9, "scripted")] for x in (10, 100, 200, 300)])
    monkeypatch.setattr(stages, "detectors_for", lambda _profile: Detectors(looks))

    run(Stage.DEIDENTIFY)

    assert (fresh(portrait).state, fresh(portrait).reason) == (
        State.REVIEW,
        Reason.FACE_STILL_FOUND,
    )
    assert not Work.objects.filter(stage=Stage.ENCODE).exists()


def test_what_cannot_be_decoded_is_rejected_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(png()[:40])
    image = received(path)

    with database.role("worker"):
        run(Stage.DEIDENTIFY)
        assert (fresh(image).state, fresh(image).reason) == (State.REJECTED, Reason.TRUNCATED)


def test_a_worker_that_was_taken_over_replaces_no_picture(portrait: Image, worker: None) -> None:
    slow = outbox.claim(Work.objects.get().pk)
    assert slow is not None
    Work.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    run(Stage.DEIDENTIFY)
    reviewed = storage.path_of(portrait.pk, Form.PREVIEW).read_bytes()

    with pytest.raises(LeaseLost):
        stages.deidentify(slow)

    assert storage.path_of(portrait.pk, Form.PREVIEW).read_bytes() == reviewed


def test_images_that_wait_are_encoded_together_and_one_s_loss_is_no_other_s(
    portrait: Image, encoder: Encoder
) -> None:
    preview = encode_preview(np.zeros((40, 60, 3), np.uint8))
    with database.role("web"):
        other = make_image(make_collection(), state=State.DEIDENTIFIED, preview=preview)
        lost = make_image(make_collection(), state=State.DEIDENTIFIED)
    run(Stage.DEIDENTIFY)
    for image in (other, lost):
        with access.processing(image.collection_id):
            Work.objects.create(image=image, collection_id=image.collection_id, stage=Stage.ENCODE)

    tasks.encode(Work.objects.get(stage=Stage.ENCODE, image_id=portrait.pk).pk)

    states = {image.pk: fresh(image).state for image in (portrait, other, lost)}
    assert states == {
        portrait.pk: State.INDEXED,
        other.pk: State.INDEXED,
        lost.pk: State.DEIDENTIFIED,
    }
    left = Work.objects.get()
    assert (left.image_id, left.attempts) == (lost.pk, 1)


def test_a_long_thin_picture_is_indexed(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "thin.png"
    Picture.new("RGB", (8000, 20), (90, 120, 150)).save(path)
    with database.role("web"):
        image = received(path)
    for stage in (Stage.DEIDENTIFY, Stage.ENCODE):
        work = Work.objects.get(image_id=image.pk, stage=stage)
        {Stage.DEIDENTIFY: tasks.deidentify, Stage.ENCODE: tasks.encode}[stage](work.pk)

    assert fresh(image).state == State.INDEXED


@pytest.fixture
def shown(
    portrait: Image, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, int]]:
    """Which encoder is shown how many images from now on: one is live and has seen the portrait,
    one came later."""
    run(Stage.DEIDENTIFY)
    run(Stage.ENCODE)
    classic = load(CLASSIC)
    index.register_encoder(
        name=CLASSIC, digest=classic.digest, dimensions=classic.dimensions, licence="Apache-2.0"
    )
    shown, real = list[tuple[str, int]](), stages._vectors

    def vectors(to: Encoder, due: Sequence[stages._Due]) -> Iterator[Vectors | Exception]:
        shown.extend([(to.name, len(due))] * bool(due))
        return real(to, due)

    monkeypatch.setattr(stages, "_vectors", vectors)
    return shown


def encode_again(image: Image) -> None:
    with access.processing(image.collection_id):
        outbox.add(image, Stage.ENCODE)
    run(Stage.ENCODE)


def test_filling_a_shadow_shows_the_live_encoder_nothing_again(
    portrait: Image, shown: list[tuple[str, int]]
) -> None:
    live, shadow = index.live_encoder(), EncoderVersion.objects.get(name=CLASSIC)

    encode_again(portrait)
    encode_again(portrait)

    assert shown == [(CLASSIC, 1)]
    part = upkeep.find_part(portrait.collection_id, live)
    assert part is not None
    assert (part.rows, part.removed, index.coverage(shadow)) == (1, 0, 1.0)
    assert not Work.objects.exists()


def test_an_image_that_is_covered_anew_is_shown_to_every_encoder_again(
    portrait: Image, shown: list[tuple[str, int]]
) -> None:
    encode_again(portrait)
    with access.processing(portrait.collection_id):
        Image.objects.update(state=State.DEIDENTIFIED)
    shown.clear()

    encode_again(portrait)

    assert shown == [(EMBEDDED, 1), (CLASSIC, 1)]
    assert fresh(portrait).state == State.INDEXED


def test_an_image_whose_parts_are_due_is_shown_to_whom_lacks_them(
    portrait: Image, shown: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to one that goes live meanwhile: the switch asks for whole images only."""
    encode_again(portrait)
    shown.clear()
    with database.role("owner"):
        Collection.objects.update(finds_parts=True)
    EncoderVersion.objects.filter(name=CLASSIC).update(retired_at=timezone.now())
    encode_again(portrait)
    EncoderVersion.objects.filter(name=CLASSIC).update(retired_at=None)
    real = stages._seen_by

    def switched(encoder: EncoderVersion, due: Sequence[stages._Due]) -> set[UUID]:
        index.switch(EncoderVersion.objects.get(name=CLASSIC))
        return real(encoder, due)

    monkeypatch.setattr(stages, "_seen_by", switched)
    encode_again(portrait)

    assert shown == [(EMBEDDED, 1), (CLASSIC, 1)]
    assert index.live_encoder().name == CLASSIC
    chosen = regions.how_chosen(())
    assert index.coverage_of_parts(index.live_encoder(), parts_from=chosen) == 1.0


def test_an_encoder_that_fails_in_the_shadow_holds_nothing_up(
    portrait: Image, encoder: Encoder
) -> None:
    make_encoder(name="broken", dimensions=7)
    run(Stage.DEIDENTIFY)
    run(Stage.ENCODE)

    assert fresh(portrait).state == State.INDEXED


def test_rows_of_another_length_than_the_encoder_s_are_not_stored_and_the_image_given_up(
    worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = encode_preview(np.zeros((40, 60, 3), np.uint8))
    with database.role("web"):
        make_encoder(dimensions=3)
        image = make_image(make_collection(), state=State.DEIDENTIFIED, preview=preview)
    monkeypatch.setattr(stages, "encoder_of", lambda _version: load(CLASSIC))
    with access.processing(image.collection_id):
        outbox.add(image, Stage.ENCODE)

    for _ in range(outbox.MAX_ATTEMPTS + 1):
        Work.objects.update(lease_until=None)
        run(Stage.ENCODE)

    assert (fresh(image).state, fresh(image).reason) == (State.QUARANTINED, Reason.THREE_STRIKES)
    with access.processing(image.collection_id):
        assert not Embedding.objects.filter(collection_id=image.collection_id).exists()


def test_imports_are_covered_as_the_deidentify_command_covers() -> None:
    stored, told = PrivacyProfile(), Profile("any")

    assert stages._rules(stored) == replace(told, name=stored.name)


def test_every_rule_of_a_profile_reaches_its_images() -> None:
    strict = PrivacyProfile(
        name="strict",
        cover="mosaic",
        shape="ellipse",
        mosaic_cells=3,
        margin=0.5,
        detection_threshold=0.1,
        cover_text=True,
        cover_codes=True,
        text_allowed=["L"],
    )

    assert asdict(stages._rules(strict)) == {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in model_to_dict(strict, exclude=["id"]).items()
    }


def test_a_stage_that_breaks_leaves_the_image_unsearchable_and_its_work_due(
    portrait: Image, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(stages, "decode", break_down)

    run(Stage.DEIDENTIFY)

    assert fresh(portrait).state == State.RECEIVED
    assert Work.objects.get().attempts == 1


@pytest.mark.parametrize("stage", [Stage.DEIDENTIFY, Stage.ENCODE])
def test_work_that_outlasts_its_lease_is_kept_while_it_goes_on(
    worker: None, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    monkeypatch.setattr(outbox, "LEASE", timedelta(seconds=0.3))
    with database.role("web"):
        image = make_image(make_collection(), state=State.DEIDENTIFIED)
    work = Work.objects.create(image=image, collection_id=image.collection_id, stage=stage)
    ends: set[datetime] = set()

    def outlast(_work: object) -> None:
        deadline = time.monotonic() + 30
        while len(ends) < 3 and time.monotonic() < deadline:
            ends.add(Work.objects.get().lease_until)  # type: ignore[arg-type]
            time.sleep(0.02)

    monkeypatch.setattr(stages, str(stage), outlast)
    {Stage.DEIDENTIFY: tasks.deidentify, Stage.ENCODE: tasks.encode}[stage](work.pk)

    assert len(ends) == 3
    assert Work.objects.get().attempts == 1
