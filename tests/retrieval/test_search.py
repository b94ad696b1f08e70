import numpy as np
import pytest

from retrieval import access, queue
from retrieval.errors import AccessDenied
from retrieval.models import AuditEvent, Kind, Purpose, Role
from retrieval.search import Query, search
from tests.factories import (
    grant,
    make_collection,
    make_encoder,
    make_image,
    make_images,
    make_user,
    operator,
)

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture(autouse=True)
def query_points_along_x(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder's answer to any query, in a space of three dimensions that a test can think in.

    The real one is asked in tests/flow.
    """
    monkeypatch.setattr(
        queue,
        "encode_query",
        lambda **_: queue.QueryVectors("test-encoder", np.array([1, 0, 0], np.float32), None, None),
    )
    make_encoder()


def test_search_never_returns_an_image_from_an_ungranted_collection() -> None:
    radiologist = make_user("radiologist")
    granted, sealed = make_collection("granted"), make_collection("sealed")
    grant(radiologist, granted, Role.SEARCHER, Purpose.TREATMENT)
    visible = make_image(granted, [0.0, 1.0, 0.0])
    make_image(sealed, [1.0, 0.0, 0.0])  # nearer, and forbidden

    answer = search(Query("fracture"), actor=radiologist, purpose=Purpose.TREATMENT)

    assert [hit.image_id for hit in answer.hits] == [visible.pk]


def test_fifty_readable_images_behind_five_thousand_nearer_ones_are_all_found() -> None:
    reader = make_user()
    few, many = make_collection(), make_collection()
    grant(reader, few)
    readable = make_images(few, [[0.1, 1.0, n / 50] for n in range(50)])
    make_images(many, [[1.0, 0.0, n / 5000] for n in range(5000)])

    answer = search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT, limit=50)

    assert {hit.image_id for hit in answer.hits} == {image.pk for image in readable}
    assert len(answer.hits) == 50


def test_a_denied_search_is_on_the_log() -> None:
    outsider = make_user()
    make_image(make_collection(), [1.0, 0.0, 0.0])

    with pytest.raises(AccessDenied):
        search(Query("anything"), actor=outsider, purpose=Purpose.TREATMENT)

    assert_last_event(Kind.SEARCH_DENIED, outsider.pk)


def assert_last_event(kind: Kind, actor_id: int) -> None:
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        event = AuditEvent.objects.first()
    assert event is not None
    assert (event.kind, event.actor_id) == (kind, actor_id)
