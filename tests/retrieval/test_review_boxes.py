"""Boxes drawn and taken off in review, and what they say about the detectors."""

import uuid
from typing import Any

import pytest
from django.db import ProgrammingError, connection

from retrieval import access, outbox, review
from retrieval.errors import AccessDenied, Reason
from retrieval.models import (
    BoxKind,
    Collection,
    Image,
    Kind,
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
from retrieval.models.grant import CAPABILITIES, Capability
from retrieval.review import Drawn
from tests import database
from tests.factories import grant, make_collection, make_image, make_user, operator
from tests.retrieval.test_review import collection, due, entries, in_review, reviewer, stored
from tests.web.conftest import Superuser

__all__ = ["collection", "reviewer"]

pytestmark = pytest.mark.usefixtures("db")

PURPOSE = Purpose.ADMINISTRATION
FACE = Drawn(BoxKind.FACE, (10, 10, 20, 20))


def detected(image: Image, kind: BoxKind = BoxKind.FACE, **fields: Any) -> ReviewBox:
    """A box as the worker proposes it."""
    values: dict[str, Any] = {
        "box": [5, 5, 20, 20],
        "score": 0.9,
        "detector": "test",
        "source": Source.DETECTOR,
        "render": 1,
        **fields,
    }
    with database.role("worker"), access.processing(image.collection_id):
        return ReviewBox.objects.create(
            image=image, collection_id=image.collection_id, kind=kind, **values
        )


def change(image: Image, reviewer: User, *drawn: Drawn, **fields: Any) -> None:
    review.change_boxes(
        image.pk,
        **{
            "render": 1,
            "drawn": drawn,
            "removed": {},
            "actor": reviewer,
            "purpose": PURPOSE,
            **fields,
        },
    )


def boxes_of(image: Image, reader: User) -> list[ReviewBox]:
    with access.acting_as(reader, PURPOSE):
        return list(ReviewBox.objects.filter(image=image))


def covered_anew(image: Image) -> None:
    """The worker has drawn the covers."""
    with database.role("worker"), access.processing(image.collection_id):
        Work.objects.filter(image=image, stage=Stage.COVER).delete()
        Image.objects.filter(pk=image.pk).update(render=image.render + 1)


def test_a_drawn_box_has_the_image_covered_anew_and_leaves_it_in_review(
    collection: Collection, reviewer: User, superuser: Superuser
) -> None:
    image = in_review(collection)

    change(image, reviewer, FACE)

    (box,) = boxes_of(image, reviewer)
    assert (box.kind, box.box, box.source) == ("face", [10, 10, 20, 20], Source.REVIEWER)
    assert (box.decided_by_id, box.render) == (reviewer.pk, 1)
    assert due(image) == [Stage.COVER]
    assert stored(image).state == State.REVIEW
    assert entries(superuser, Kind.REVIEW_BOXES_CHANGED) == [
        {
            "drawn": ["face"],
            "image": str(image.pk),
            "kinds": [],
            "reasons": [],
            "removed": [],
            "render": 1,
            "subject": None,
        }
    ]


def test_a_box_is_taken_off_with_its_reason_and_by_whom_on_the_row_and_the_log(
    collection: Collection, reviewer: User, superuser: Superuser
) -> None:
    image = in_review(collection)
    box = detected(image)

    change(image, reviewer, removed={box.pk: RemovalReason.NOT_A_FACE})

    (box,) = boxes_of(image, reviewer)
    assert (box.removed_reason, box.decided_by_id) == (RemovalReason.NOT_A_FACE, reviewer.pk)
    (entry,) = entries(superuser, Kind.REVIEW_BOXES_CHANGED)
    assert (entry["removed"], entry["kinds"], entry["reasons"]) == (
        [box.pk],
        ["face"],
        ["not_a_face"],
    )


def test_without_a_reason_no_box_is_taken_off(collection: Collection, reviewer: User) -> None:
    image = in_review(collection)
    box = detected(image)

    with pytest.raises(ValueError, match="not a valid RemovalReason"):
        change(image, reviewer, removed={box.pk: ""})

    assert boxes_of(image, reviewer)[0].removed_reason == ""
    assert due(image) == []


def test_a_box_is_cut_at_the_edges(collection: Collection, reviewer: User) -> None:
    image = in_review(collection)
    boxes = [(-10, -10, 20, 20), (90, 70, 500, 500), (-5, -5, 10**9, 10**9)]

    change(image, reviewer, *[Drawn(BoxKind.TEXT, box) for box in boxes])

    assert [box.box for box in boxes_of(image, reviewer)] == [
        [0, 0, 10, 10],
        [90, 70, 10, 10],
        [0, 0, 100, 80],
    ]


def test_a_box_beyond_the_image_is_refused(collection: Collection, reviewer: User) -> None:
    image = in_review(collection)

    for box in ((100, 0, 5, 5), (0, 80, 5, 5), (-9, 0, 9, 9), (5, 5, 0, 5)):
        with pytest.raises(ValueError, match="beyond"):
            change(image, reviewer, Drawn(BoxKind.FACE, box))

    assert due(image) == []


def test_no_boxes_and_too_many_are_refused(collection: Collection, reviewer: User) -> None:
    image = in_review(collection)
    for count in (0, review.MAX_CHANGES + 1):
        with pytest.raises(ValueError, match="between"):
            change(image, reviewer, *[FACE] * count)


def test_boxes_of_another_image_and_what_the_last_look_saw_are_not_taken_off(
    collection: Collection, reviewer: User
) -> None:
    image, other = in_review(collection), in_review(collection)
    for box in (detected(other), detected(image, source=Source.LAST_LOOK)):
        with pytest.raises(ValueError, match="not there"):
            change(image, reviewer, removed={box.pk: RemovalReason.OTHER})


def test_only_what_is_in_review_takes_boxes(collection: Collection, reviewer: User) -> None:
    for state in set(State) - {State.REVIEW}:
        image = make_image(collection, state=state, render=1, width=100, height=80)
        with pytest.raises(review.NotDecidable):
            change(image, reviewer, FACE)
        assert due(image) == []


@pytest.mark.parametrize("fields", [{"reason": Reason.DETECTOR_FAILED}, {"render": 0}])
def test_where_nobody_knows_what_was_found_no_box_is_drawn_and_a_new_start_helps(
    collection: Collection, reviewer: User, fields: dict[str, Any]
) -> None:
    image = make_image(
        collection,
        **{
            "state": State.REVIEW,
            "reason": Reason.FACE_STILL_FOUND,
            "render": 1,
            "width": 100,
            "height": 80,
            **fields,
        },
    )

    with pytest.raises(review.NotDecidable):
        change(image, reviewer, FACE, render=image.render)
    assert due(image) == []

    review.retry(image.pk, actor=reviewer, purpose=PURPOSE)
    assert (stored(image).state, due(image)) == (State.RECEIVED, [Stage.DEIDENTIFY])


def test_the_second_of_two_reviewers_is_told_that_the_picture_has_changed(
    collection: Collection, reviewer: User
) -> None:
    image = in_review(collection)
    change(image, reviewer, FACE)

    with pytest.raises(review.Outdated):
        change(image, reviewer, FACE)
    covered_anew(image)
    with pytest.raises(review.Outdated):
        change(image, reviewer, FACE)

    assert len(boxes_of(image, reviewer)) == 1


def test_only_the_render_that_was_looked_at_is_released(
    collection: Collection, reviewer: User
) -> None:
    image = in_review(collection)
    change(image, reviewer, FACE)
    covered_anew(image)

    with pytest.raises(review.Outdated):
        review.release(image.pk, render=1, actor=reviewer, purpose=PURPOSE)
    assert stored(image).state == State.REVIEW

    review.release(image.pk, render=2, actor=reviewer, purpose=PURPOSE)
    assert stored(image).state == State.DEIDENTIFIED


@pytest.mark.parametrize("kind", list(BoxKind))
def test_who_took_a_cover_off_does_not_release_the_image_and_a_second_reviewer_does(
    collection: Collection, reviewer: User, kind: BoxKind
) -> None:
    image, second = in_review(collection), make_user()
    grant(second, collection, Role.REVIEWER, PURPOSE)
    change(image, reviewer, removed={detected(image, kind).pk: RemovalReason.OTHER})
    covered_anew(image)

    assert review.look_at(image.pk, actor=reviewer, purpose=PURPOSE).needs_another
    with pytest.raises(review.TakenOffByYou):
        review.release(image.pk, render=2, actor=reviewer, purpose=PURPOSE)
    with (
        pytest.raises(ProgrammingError, match="does not release"),
        access.acting_as(reviewer, PURPOSE),
    ):
        Image.objects.filter(pk=image.pk).update(state=State.DEIDENTIFIED)
    assert stored(image).state == State.REVIEW

    assert not review.look_at(image.pk, actor=second, purpose=PURPOSE).needs_another
    review.release(image.pk, render=2, actor=second, purpose=PURPOSE)
    assert stored(image).state == State.DEIDENTIFIED


def test_nothing_is_released_while_it_is_covered_anew(
    collection: Collection, reviewer: User
) -> None:
    image = in_review(collection)
    change(image, reviewer, FACE)

    with pytest.raises(review.Outdated):
        review.release(image.pk, render=1, actor=reviewer, purpose=PURPOSE)

    assert stored(image).state == State.REVIEW


def test_what_was_rejected_while_it_was_covered_anew_stays_rejected(
    collection: Collection, reviewer: User
) -> None:
    image = in_review(collection)
    change(image, reviewer, FACE)
    review.reject(image.pk, actor=reviewer, purpose=PURPOSE)
    with database.role("worker"):
        work = Work.objects.get(image_id=image.pk)
        Work.objects.update(attempts=outbox.MAX_ATTEMPTS)
        assert outbox.claim(work.pk) is None

    assert stored(image).state == State.REJECTED


@pytest.mark.parametrize("role", [Role.VIEWER, Role.SEARCHER, Role.CURATOR])
def test_who_may_not_review_sees_no_queue_and_draws_nothing(
    collection: Collection, superuser: Superuser, role: Role
) -> None:
    image = in_review(collection)
    user = make_user()
    grant(user, collection, role, PURPOSE)

    with pytest.raises(AccessDenied):
        change(image, user, FACE)
    with pytest.raises(AccessDenied):
        review.look_at(image.pk, actor=user, purpose=PURPOSE)
    with pytest.raises(AccessDenied):
        review.waiting(actor=user, purpose=PURPOSE)

    assert due(image) == []
    assert len(entries(superuser, Kind.IMAGE_DENIED)) == 3


def test_the_queue_is_what_one_may_review_for_this_purpose_oldest_first_and_on_the_log(
    collection: Collection, reviewer: User, superuser: Superuser
) -> None:
    first, second = in_review(collection), in_review(collection)
    in_review(make_collection("sealed"))
    other = make_collection("read only")
    grant(reviewer, other, Role.CURATOR, PURPOSE)
    in_review(other)
    make_image(collection, state=State.REJECTED)

    queue = review.waiting(actor=reviewer, purpose=PURPOSE)

    assert ([i.pk for i in queue.images], queue.count) == ([first.pk, second.pk], 2)
    assert entries(superuser, Kind.IMAGES_LISTED) == [
        {"images": [str(first.pk), str(second.pk)], "subjects": []}
    ]


def test_an_image_in_review_names_its_neighbours_in_the_queue(
    collection: Collection, reviewer: User, superuser: Superuser
) -> None:
    images = [in_review(collection) for _ in range(3)]

    case = review.look_at(images[1].pk, actor=reviewer, purpose=PURPOSE)

    assert (case.previous, case.next, case.count) == (images[0].pk, images[2].pk, 3)
    assert entries(superuser, Kind.IMAGE_VIEWED) == [
        {"form": "review", "image": str(images[1].pk), "subject": None}
    ]


def test_missing_and_foreign_images_are_denied_alike(reviewer: User) -> None:
    foreign = in_review(make_collection("sealed"))

    messages = set()
    for image_id in (foreign.pk, uuid.uuid4()):
        with pytest.raises(AccessDenied) as denied:
            review.look_at(image_id, actor=reviewer, purpose=PURPOSE)
        messages.add(str(denied.value))

    assert len(messages) == 1


@pytest.mark.parametrize("role", list(Role))
def test_both_locks_agree_on_who_may_judge_boxes(role: Role) -> None:
    user, mine = make_user(), make_collection()
    grant(user, mine, role, PURPOSE)
    box = detected(in_review(mine))
    may = Capability.REVIEW in CAPABILITIES[role]

    assert bool(boxes_of(box.image, user)) == may
    with access.acting_as(user, PURPOSE):
        changed = ReviewBox.objects.filter(pk=box.pk).update(
            removed_reason=RemovalReason.OTHER, decided_by=user
        )
    assert bool(changed) == may


@pytest.mark.parametrize(
    "columns",
    [
        {"source": "detector", "decided_by_id": "%(me)s"},
        {"source": "reviewer", "decided_by_id": "%(other)s"},
    ],
    ids=["as a detector", "as somebody else"],
)
def test_a_reviewer_draws_in_her_own_name_only(
    collection: Collection, reviewer: User, columns: dict[str, str]
) -> None:
    image = in_review(collection)
    names = {"me": reviewer.pk, "other": operator().pk}
    box = ReviewBox(
        image=image,
        collection=collection,
        kind=BoxKind.FACE,
        box=[1, 1, 2, 2],
        render=1,
        source=columns["source"],
        decided_by_id=int(columns["decided_by_id"] % names),
    )

    with (
        pytest.raises(ProgrammingError, match="row-level security"),
        access.acting_as(reviewer, PURPOSE),
    ):
        box.save()


def test_a_decision_about_a_box_stands(collection: Collection, reviewer: User) -> None:
    image = in_review(collection)
    box = detected(image)
    change(image, reviewer, removed={box.pk: RemovalReason.NOT_A_FACE})

    with access.acting_as(reviewer, PURPOSE), connection.cursor() as cursor:
        cursor.execute("UPDATE retrieval_reviewbox SET removed_reason = 'other'")
        assert cursor.rowcount == 0


def test_released_boxes_judge_the_detectors_of_their_profile(
    collection: Collection, reviewer: User, superuser: Superuser
) -> None:
    image, waiting = in_review(collection), in_review(collection)
    detected(image)
    wrong = detected(image, box=[50, 50, 10, 10])
    small = detected(image, box=[70, 10, 10, 10])
    allowed = detected(image, BoxKind.TEXT, box=[0, 60, 20, 8])
    detected(image, source=Source.LAST_LOOK, box=[30, 60, 5, 5])
    detected(waiting)
    change(
        image,
        reviewer,
        Drawn(BoxKind.FACE, (30, 30, 10, 10)),
        Drawn(BoxKind.FACE, (69, 9, 12, 12)),
        removed={
            wrong.pk: RemovalReason.NOT_A_FACE,
            small.pk: RemovalReason.OTHER,
            allowed.pk: RemovalReason.ALLOWED_TEXT,
        },
    )
    covered_anew(image)
    review.release(image.pk, render=2, actor=operator(), purpose=PURPOSE)

    judged = review.reviewed_boxes(collection.profile, actor=reviewer, purpose=PURPOSE)

    faces, text, codes = judged
    assert (faces.kind, faces.images) == (BoxKind.FACE, 1)
    assert (faces.found, faces.missed, faces.wrong) == (2, 1, 1)
    assert faces.recall == pytest.approx(2 / 3)
    assert faces.precision == pytest.approx(2 / 3)
    assert (text.found, text.missed, text.wrong) == (1, 0, 0)
    assert (codes.recall, codes.precision) == (None, None)
    assert entries(superuser, Kind.DETECTORS_JUDGED)[0]["boxes"] == 6


def test_who_reviews_nothing_is_told_nothing_about_the_detectors(
    collection: Collection, reviewer: User
) -> None:
    image = in_review(collection)
    detected(image)
    review.release(image.pk, render=1, actor=reviewer, purpose=PURPOSE)

    curator = make_user()
    grant(curator, collection, Role.CURATOR, PURPOSE)
    judged = review.reviewed_boxes(collection.profile, actor=curator, purpose=PURPOSE)

    assert [one.images for one in judged] == [0, 0, 0]
