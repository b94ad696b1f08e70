"""What `import --wait` waits for."""

import uuid

import pytest

from appliance.management import importing
from retrieval.models import Purpose, State
from tests.factories import make_collection, make_image, operator

pytestmark = pytest.mark.usefixtures("db")


def test_what_is_settled_or_gone_is_not_waited_for_and_few_are_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importing, "ASKED_TOGETHER", 3)
    mine = make_collection()
    settled, waiting, behind = (
        make_image(mine, state=state).pk for state in (State.REVIEW, State.RECEIVED, State.INDEXED)
    )
    image_ids = [settled, uuid.uuid4(), waiting, behind]

    left = importing.still_under_way(image_ids, actor=operator(), purpose=Purpose.ADMINISTRATION)

    assert left == [waiting, behind]
    assert importing.still_under_way(left, actor=operator(), purpose=Purpose.ADMINISTRATION) == [
        waiting
    ]


def test_what_is_settled_is_not_slept_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "ASKED_TOGETHER", 1)
    monkeypatch.setattr(importing, "POLL_S", None)  # no sleep takes this
    mine = make_collection()
    settled = [make_image(mine, state=State.INDEXED).pk for _ in range(3)]

    left = importing.waiting_for(settled, actor=operator(), purpose=Purpose.ADMINISTRATION)

    assert list(left) == [2, 1, 0]
