"""An image is covered as its reviewer drew it, by the worker's role and from the original.

Where faces are is given here: what finds them has tests of its own.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from retrieval import access, receive, review, storage
from retrieval.errors import Reason
from retrieval.models import (
    BoxKind,
    Collection,
    Image,
    PrivacyProfile,
    Purpose,
    RemovalReason,
    ReviewBox,
    Role,
    Source,
    Stage,
    State,
    User,
    Work,
)
from retrieval.review import Drawn
from retrieval.storage import Form
from tests import database
from tests.factories import grant, make_collection, make_user, operator
from workers import stages, tasks
from workers.decode.sandbox import decode
from workers.deidentify.faces import Face, Pixels
from workers.deidentify.verdict import Boxes, Detectors

PURPOSE = Purpose.ADMINISTRATION
FOUND = Face((8, 8, 16, 16), 0.9, "given")
STUBBORN = Face((50, 40, 8, 8), 0.4, "given")
"""Seen by every look, so that the image goes to review."""


class Given:
    """Finds a face where bright pixels are left, and one that no cover hides."""

    name = "given"
    fails = False

    def detect(self, pixels: Pixels) -> list[Face]:
        if self.fails:
            raise ZeroDivisionError
        x, y, w, h = FOUND.box
        return [FOUND, STUBBORN] if pixels[y : y + h, x : x + w].mean() > 20 else [STUBBORN]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    given = Given()
    monkeypatch.setattr(stages, "detectors_for", lambda _profile: Detectors(given))
    # The stubborn face lies under its own cover: without this it would be taken for that.
    monkeypatch.setattr("workers.deidentify.verdict.share_under_covers", lambda *_, **__: 0.0)
    return given


@pytest.fixture
def reviewer(db: None) -> User:
    return make_user("reviewer")


@pytest.fixture
def image(db: None, given: Given, reviewer: User, tmp_path: Path) -> Image:
    """A grey picture, 96 by 64 pixels, that the worker has sent to review."""
    path = tmp_path / "grey.png"
    Picture.new("RGB", (96, 64), (200, 200, 200)).save(path)
    collection = make_collection()
    grant(reviewer, collection, Role.REVIEWER, PURPOSE)
    batch = receive.start_batch(collection, actor=operator(), purpose=PURPOSE)
    image, _ = receive.receive(
        receive.Candidate("grey.png", lambda: path.open("rb")),
        batch,
        actor=operator(),
        purpose=PURPOSE,
    )
    run(Stage.DEIDENTIFY)
    return fresh(image)


def run(stage: Stage) -> None:
    task = {Stage.DEIDENTIFY: tasks.deidentify, Stage.COVER: tasks.cover}[stage]
    with database.role("worker"):
        task(Work.objects.get(stage=stage).pk)


def fresh(image: Image) -> Image:
    with access.acting_as(operator(), PURPOSE):
        return Image.objects.get(pk=image.pk)


def rows(image: Image, source: Source) -> list[ReviewBox]:
    with access.acting_as(operator(), PURPOSE):
        return list(ReviewBox.objects.filter(image=image, source=source))


def shown(image: Image) -> Pixels:
    return decode(storage.read(image, Form.PREVIEW)).pixels


def change(image: Image, reviewer: User, *drawn: Drawn, **removed: RemovalReason) -> None:
    review.change_boxes(
        image.pk,
        render=image.render,
        drawn=drawn,
        removed={int(pk.lstrip("_")): reason for pk, reason in removed.items()},
        actor=reviewer,
        purpose=PURPOSE,
    )


def test_what_was_found_is_proposed_to_the_reviewer_with_the_covered_picture(image: Image) -> None:
    boxes = rows(image, Source.DETECTOR)

    assert (image.state, image.reason, image.render) == (
        State.REVIEW,
        Reason.FACE_STILL_FOUND,
        1,
    )
    assert {tuple(box.box) for box in boxes} == {FOUND.box, STUBBORN.box}
    assert shown(image)[12, 12].max() < 30


def test_a_cover_is_taken_off_a_drawn_one_put_on_and_the_image_stays_in_review(
    image: Image, reviewer: User
) -> None:
    (face, *_) = (b for b in rows(image, Source.DETECTOR) if tuple(b.box) == FOUND.box)
    drawn = Drawn(BoxKind.TEXT, (70, 4, 20, 10))
    change(image, reviewer, drawn, **{f"_{face.pk}": RemovalReason.NOT_A_FACE})

    run(Stage.COVER)

    after = fresh(image)
    assert (after.state, after.render) == (State.REVIEW, 2)
    picture = shown(after)
    assert picture[12, 12].min() > 170, "the cover is off"
    assert picture[6:12, 72:88].max() < 30, "the drawn one is on"
    assert picture[44, 54].max() < 30, "the other one stays"
    assert picture[30, 80].min() > 170
    assert {tuple(b.box) for b in rows(image, Source.LAST_LOOK)} == {FOUND.box, STUBBORN.box}
    assert ([f["box"] for f in after.faces], [t["box"] for t in after.text]) == (
        [list(STUBBORN.box)] * len(after.faces),
        [[70, 4, 20, 10]],
    )
    assert not Work.objects.filter(stage=Stage.ENCODE).exists()


def test_a_rejected_image_is_covered_no_more(image: Image, reviewer: User) -> None:
    (face, *_) = rows(image, Source.DETECTOR)
    change(image, reviewer, **{f"_{face.pk}": RemovalReason.NOT_A_FACE})
    review.reject(image.pk, actor=reviewer, purpose=PURPOSE)
    before = storage.path_of(image.pk, Form.PREVIEW).read_bytes()

    run(Stage.COVER)

    assert storage.path_of(image.pk, Form.PREVIEW).read_bytes() == before
    assert fresh(image).state == State.REJECTED
    assert not Work.objects.exists()


def test_what_was_rejected_during_the_work_keeps_its_picture(
    image: Image, reviewer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(image, reviewer, Drawn(BoxKind.FACE, (0, 0, 5, 5)))
    before = storage.path_of(image.pk, Form.PREVIEW).read_bytes()

    def reject_meanwhile(*_args: object) -> object:
        with database.role("web"):
            review.reject(image.pk, actor=reviewer, purpose=PURPOSE)
        return Boxes()

    monkeypatch.setattr(stages, "still_found", reject_meanwhile)
    run(Stage.COVER)

    assert storage.path_of(image.pk, Form.PREVIEW).read_bytes() == before


@pytest.mark.parametrize("fields", [{"reason": Reason.DETECTOR_FAILED}, {"render": 0}])
def test_where_the_boxes_do_not_say_what_was_found_the_original_is_not_shown(
    image: Image, fields: dict[str, object]
) -> None:
    with database.role("worker"), access.processing(image.collection_id):
        Image.objects.filter(pk=image.pk).update(**fields)
        ReviewBox.objects.all().delete()
        Work.objects.create(image=image, collection_id=image.collection_id, stage=Stage.COVER)
    before = storage.path_of(image.pk, Form.PREVIEW).read_bytes()

    run(Stage.COVER)

    assert storage.path_of(image.pk, Form.PREVIEW).read_bytes() == before


def test_a_new_start_keeps_what_a_reviewer_drew_and_goes_back_to_review(
    image: Image, reviewer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    (face, *_) = rows(image, Source.DETECTOR)
    change(
        image,
        reviewer,
        Drawn(BoxKind.FACE, (70, 4, 20, 10)),
        **{f"_{face.pk}": RemovalReason.NOT_A_FACE},
    )
    run(Stage.COVER)
    with database.role("worker"), access.processing(image.collection_id):
        Image.objects.filter(pk=image.pk).update(state=State.QUARANTINED)
    review.retry(image.pk, actor=operator(), purpose=PURPOSE)
    monkeypatch.setattr(Given, "detect", lambda *_: [])

    run(Stage.DEIDENTIFY)

    after = fresh(image)
    assert (after.state, after.reason) == (State.REVIEW, Reason.REVIEW_UNFINISHED)
    assert shown(after)[6:12, 72:88].max() < 30
    assert rows(image, Source.DETECTOR) == []
    assert len(rows(image, Source.REVIEWER)) == 1


def test_a_new_start_does_not_forget_who_took_off_what_a_colleague_drew(
    image: Image, reviewer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what detectors no longer find released without anybody's look."""
    colleague = make_user()
    grant(colleague, image.collection, Role.REVIEWER, PURPOSE)
    change(image, colleague, Drawn(BoxKind.FACE, (70, 4, 20, 10)))
    run(Stage.COVER)
    (drawn,) = rows(image, Source.REVIEWER)
    change(fresh(image), reviewer, **{f"_{drawn.pk}": RemovalReason.OTHER})
    run(Stage.COVER)
    with database.role("worker"), access.processing(image.collection_id):
        Image.objects.filter(pk=image.pk).update(state=State.QUARANTINED)
    review.retry(image.pk, actor=operator(), purpose=PURPOSE)
    monkeypatch.setattr(Given, "detect", lambda *_: [])

    run(Stage.DEIDENTIFY)

    again = fresh(image)
    assert again.state == State.REVIEW
    with pytest.raises(review.TakenOffByYou):
        review.release(image.pk, render=again.render, actor=reviewer, purpose=PURPOSE)


def test_after_a_change_of_profile_only_a_new_start_makes_an_image_releasable(
    image: Image, reviewer: User
) -> None:
    """Covering again looks for nothing new, so it does not count as a look under the new rules."""
    change(image, reviewer, Drawn(BoxKind.FACE, (0, 0, 5, 5)))
    strict = PrivacyProfile.objects.create(name="strict", margin=0.5)
    Collection.objects.filter(pk=image.collection_id).update(profile=strict)
    run(Stage.COVER)

    with pytest.raises(review.NotDecidable):
        review.release(image.pk, render=2, actor=reviewer, purpose=PURPOSE)
    review.retry(image.pk, actor=reviewer, purpose=PURPOSE)
    run(Stage.DEIDENTIFY)
    review.release(image.pk, render=3, actor=reviewer, purpose=PURPOSE)

    assert fresh(image).state == State.DEIDENTIFIED


def test_a_detector_that_fails_leaves_a_black_picture_and_no_boxes(
    image: Image, given: Given
) -> None:
    given.fails = True
    with database.role("worker"), access.processing(image.collection_id):
        Image.objects.filter(pk=image.pk).update(state=State.QUARANTINED)
    review.retry(image.pk, actor=operator(), purpose=PURPOSE)

    run(Stage.DEIDENTIFY)

    after = fresh(image)
    assert (after.reason, rows(image, Source.DETECTOR)) == (Reason.DETECTOR_FAILED, [])
    assert not np.any(shown(after))
