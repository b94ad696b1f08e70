import json
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from retrieval import access, outbox, review
from retrieval.errors import AccessDenied, Reason
from retrieval.models import (
    BoxKind,
    Collection,
    Image,
    Kind,
    PrivacyProfile,
    Purpose,
    Role,
    Stage,
    State,
    User,
    Work,
)
from tests.factories import grant, make_collection, make_image, make_user, operator
from tests.web.conftest import Superuser

pytestmark = pytest.mark.usefixtures("db")

PURPOSE = Purpose.ADMINISTRATION


@pytest.fixture
def collection() -> Collection:
    return make_collection("ward")


@pytest.fixture
def reviewer(collection: Collection) -> User:
    user = make_user("reviewer")
    grant(user, collection, Role.REVIEWER, PURPOSE)
    return user


@pytest.fixture
def curator(collection: Collection) -> User:
    user = make_user("curator")
    grant(user, collection, Role.CURATOR, PURPOSE)
    return user


def stored(image: Image) -> Image:
    with access.acting_as(operator(), PURPOSE):
        return Image.objects.get(pk=image.pk)


def due(image: Image) -> list[str]:
    with access.acting_as(operator(), PURPOSE):
        return list(Work.objects.filter(image=image).values_list("stage", flat=True))


def entries(superuser: Superuser, kind: Kind) -> list[dict[str, Any]]:
    rows = superuser.execute(
        "SELECT details FROM retrieval_auditevent WHERE kind = %s ORDER BY number", [kind]
    )
    return [json.loads(details) for (details,) in rows]


def in_review(collection: Collection, reason: Reason = Reason.FACE_STILL_FOUND) -> Image:
    return make_image(collection, state=State.REVIEW, reason=reason, render=1, width=100, height=80)


RELEASE = partial(review.release, render=1)


def test_a_released_image_is_due_to_be_encoded_and_the_decision_is_on_the_log(
    collection: Collection, reviewer: User, superuser: Superuser
) -> None:
    image = in_review(collection)

    review.release(image.pk, render=1, actor=reviewer, purpose=PURPOSE)

    assert (stored(image).state, stored(image).reason) == (State.DEIDENTIFIED, "")
    assert due(image) == [Stage.ENCODE]
    assert entries(superuser, Kind.REVIEW_DECIDED) == [
        {"decision": "released", "image": str(image.pk), "reason": "face_still_found", "render": 1}
    ]


def test_an_image_whose_detector_failed_is_never_released(
    collection: Collection, reviewer: User
) -> None:
    image = in_review(collection, Reason.DETECTOR_FAILED)

    with pytest.raises(review.NotDecidable):
        review.release(image.pk, render=1, actor=reviewer, purpose=PURPOSE)

    assert stored(image).state == State.REVIEW
    assert due(image) == []


def test_what_was_looked_at_under_another_profile_is_not_released_but_looked_at_again(
    collection: Collection, reviewer: User
) -> None:
    """Made stricter since: her boxes are those of the weaker one."""
    image = in_review(collection)
    strict = PrivacyProfile.objects.create(name="strict", margin=0.5)
    Collection.objects.filter(pk=collection.pk).update(profile=strict)

    with pytest.raises(review.NotDecidable):
        review.release(image.pk, render=1, actor=reviewer, purpose=PURPOSE)
    with pytest.raises(review.NotDecidable):
        review.change_boxes(
            image.pk,
            render=1,
            drawn=[review.Drawn(BoxKind.FACE, (1, 1, 9, 9))],
            removed={},
            actor=reviewer,
            purpose=PURPOSE,
        )
    review.retry(image.pk, actor=reviewer, purpose=PURPOSE)

    assert stored(image).state == State.RECEIVED
    assert due(image) == [Stage.DEIDENTIFY]


@pytest.mark.parametrize(
    "changed",
    [
        {"cover": "mosaic"},
        {"shape": "ellipse"},
        {"mosaic_cells": 4},
        {"margin": 0.3},
        {"detection_threshold": 0.1},
        {"cover_text": True},
        {"cover_codes": True},
        {"text_allowed": ["L"]},
    ],
    ids=str,
)
def test_a_profile_with_any_other_rule_is_another_one(changed: dict[str, Any]) -> None:
    assert PrivacyProfile(**changed).rules_digest != PrivacyProfile().rules_digest
    assert PrivacyProfile(name="other").rules_digest == PrivacyProfile().rules_digest


def test_an_image_whose_detector_failed_is_tried_again_from_its_start(
    collection: Collection, reviewer: User
) -> None:
    image = in_review(collection, Reason.DETECTOR_FAILED)

    review.retry(image.pk, actor=reviewer, purpose=PURPOSE)

    assert stored(image).state == State.RECEIVED
    assert due(image) == [Stage.DEIDENTIFY]


def test_a_rejected_image_is_due_for_nothing(
    collection: Collection, reviewer: User, superuser: Superuser
) -> None:
    image = in_review(collection)

    review.reject(image.pk, actor=reviewer, purpose=PURPOSE)

    assert (stored(image).state, stored(image).reason) == (
        State.REJECTED,
        Reason.REJECTED_BY_REVIEWER,
    )
    assert due(image) == []
    assert entries(superuser, Kind.REVIEW_DECIDED)[0]["decision"] == "rejected"


@pytest.mark.parametrize("decide", [RELEASE, review.reject])
@pytest.mark.parametrize("state", sorted(set(State) - {State.REVIEW}))
def test_only_what_is_in_review_is_decided(
    collection: Collection, reviewer: User, decide: Callable[..., None], state: State
) -> None:
    image = make_image(collection, state=state)

    with pytest.raises(review.NotDecidable):
        decide(image.pk, actor=reviewer, purpose=PURPOSE)

    assert stored(image).state == state


@pytest.mark.parametrize("role", [Role.VIEWER, Role.SEARCHER, Role.CURATOR])
@pytest.mark.parametrize("decide", [RELEASE, review.reject])
def test_who_may_not_review_decides_nothing_and_the_attempt_is_on_the_log(
    collection: Collection, superuser: Superuser, role: Role, decide: Callable[..., None]
) -> None:
    image = in_review(collection)
    user = make_user()
    grant(user, collection, role, PURPOSE)

    with pytest.raises(AccessDenied):
        decide(image.pk, actor=user, purpose=PURPOSE)

    assert stored(image).state == State.REVIEW
    assert entries(superuser, Kind.IMAGE_DENIED) == [{"image": str(image.pk)}]


def test_a_reviewer_of_another_purpose_decides_nothing(
    collection: Collection, reviewer: User
) -> None:
    image = in_review(collection)

    with pytest.raises(AccessDenied):
        review.release(image.pk, render=1, actor=reviewer, purpose=Purpose.TREATMENT)

    assert stored(image).state == State.REVIEW


def test_what_was_given_up_starts_again(
    collection: Collection, curator: User, superuser: Superuser
) -> None:
    image = make_image(collection, state=State.QUARANTINED, reason=Reason.THREE_STRIKES)

    review.retry(image.pk, actor=curator, purpose=PURPOSE)

    assert stored(image).state == State.RECEIVED
    assert due(image) == [Stage.DEIDENTIFY]
    assert entries(superuser, Kind.WORK_RETRIED) == [
        {"image": str(image.pk), "reason": "three_strikes", "was": "quarantined"}
    ]


def test_what_is_stuck_goes_on_where_it_was(collection: Collection, curator: User) -> None:
    image = make_image(collection, state=State.DEIDENTIFIED)

    review.retry(image.pk, actor=curator, purpose=PURPOSE)

    assert due(image) == [Stage.ENCODE]


def test_retrying_twice_leaves_one_piece_of_work_with_all_its_attempts(
    collection: Collection, curator: User
) -> None:
    image = make_image(collection, state=State.RECEIVED)
    with access.acting_as(operator(), PURPOSE):
        outbox.add(image, Stage.DEIDENTIFY)
        Work.objects.filter(image=image).update(attempts=2)

    review.retry(image.pk, actor=curator, purpose=PURPOSE)

    assert due(image) == [Stage.DEIDENTIFY]
    with access.acting_as(operator(), PURPOSE):
        assert Work.objects.get(image=image).attempts == 0


@pytest.mark.parametrize("state", [State.INDEXED, State.REJECTED])
def test_what_is_settled_is_not_retried(
    collection: Collection, curator: User, superuser: Superuser, state: State
) -> None:
    image = make_image(collection, state=state)

    with pytest.raises(review.NotDecidable):
        review.retry(image.pk, actor=curator, purpose=PURPOSE)

    assert due(image) == []
    assert entries(superuser, Kind.WORK_RETRIED) == []


def test_a_curator_does_not_get_an_image_out_of_review_by_retrying(
    collection: Collection, curator: User
) -> None:
    image = in_review(collection, Reason.DETECTOR_FAILED)

    with pytest.raises(AccessDenied):
        review.retry(image.pk, actor=curator, purpose=PURPOSE)

    assert stored(image).state == State.REVIEW


def test_a_decision_that_cannot_be_recorded_is_not_made(
    collection: Collection, reviewer: User, superuser: Superuser
) -> None:
    image = in_review(collection)
    superuser.execute("DELETE FROM retrieval_audithead")
    try:
        with pytest.raises(Exception, match="no rows"):
            review.release(image.pk, render=1, actor=reviewer, purpose=PURPOSE)
    finally:
        superuser.execute(
            "INSERT INTO retrieval_audithead (number, entry_hash)"
            " SELECT max(number), (array_agg(entry_hash ORDER BY number DESC))[1]"
            " FROM retrieval_auditevent"
        )

    assert stored(image).state == State.REVIEW
    assert due(image) == []


def test_missing_images_are_denied_like_foreign_ones(reviewer: User) -> None:
    foreign = in_review(make_collection("sealed"))

    with pytest.raises(AccessDenied) as of_foreign:
        review.release(foreign.pk, render=1, actor=reviewer, purpose=PURPOSE)
    with pytest.raises(AccessDenied) as of_missing:
        review.release(uuid.uuid4(), render=1, actor=reviewer, purpose=PURPOSE)

    assert str(of_foreign.value) == str(of_missing.value)
