import json
import uuid

import numpy as np
import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from retrieval import access, index, queue
from retrieval.errors import AccessDenied, AuditUnavailable, EncoderUnavailable
from retrieval.models import AuditEvent, Kind, Purpose, Role
from retrieval.models.grant import CAPABILITIES, Capability, roles_with
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

    event = last_event()
    assert (event.kind, event.actor_id) == (Kind.SEARCH_DENIED, outsider.pk)


def test_without_an_audit_row_there_is_no_answer(
    superuser: psycopg.Connection[tuple[object, ...]],
) -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    make_image(mine, [1, 0, 0])
    superuser.execute("BEGIN; SELECT 1 FROM retrieval_audithead FOR UPDATE")

    with pytest.raises(AuditUnavailable):
        search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT)
    superuser.execute("ROLLBACK")


def test_an_answer_is_on_the_log_with_every_image_it_shows_and_no_word_of_the_query() -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    image = make_image(mine, [1, 0, 0])

    answer = search(Query("broken wrist"), actor=reader, purpose=Purpose.TREATMENT)

    event = last_event()
    assert (event.number, event.kind) == (answer.audit_number, Kind.SEARCH_SERVED)
    assert json.loads(event.details)["images"] == [str(image.pk)]
    assert "wrist" not in event.details


def test_a_search_that_fails_is_on_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_answers(**_: object) -> None:
        raise EncoderUnavailable

    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    monkeypatch.setattr(queue, "encode_query", nobody_answers)

    with pytest.raises(EncoderUnavailable):
        search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT)

    assert last_event().kind == Kind.SEARCH_FAILED


def test_more_like_a_foreign_image_is_as_if_it_did_not_exist() -> None:
    reader, mine, foreign = make_user(), make_collection(), make_collection()
    grant(reader, mine)
    make_image(mine, [1, 0, 0])
    hidden = make_image(foreign, [1, 0, 0])

    messages = set()
    for image_id in (hidden.pk, uuid.uuid4()):
        with pytest.raises(AccessDenied) as denied:
            search(Query(like=image_id), actor=reader, purpose=Purpose.TREATMENT)
        messages.add(str(denied.value))
    assert len(messages) == 1


def test_more_like_this_finds_the_nearest_of_what_may_be_seen() -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    one, near, far = make_images(mine, [[1, 0, 0], [1, 0.1, 0], [0, 1, 0]])

    answer = search(Query(like=one.pk), actor=reader, purpose=Purpose.TREATMENT)

    assert [hit.image_id for hit in answer.hits] == [one.pk, near.pk, far.pk]


def test_scores_are_rounded() -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    make_image(mine, [1, 0.3333, 0.1777])

    (hit,) = search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT).hits

    assert hit.score == round(hit.score, 3)


@pytest.mark.parametrize("role", roles_with(Capability.SEARCH))
def test_source_names_are_for_roles_that_may_see_them(role: Role) -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine, role)
    make_image(mine, [1, 0, 0], name="Jane Roe.png")

    (hit,) = search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT).hits

    may = Capability.SEE_SOURCE_NAMES in CAPABILITIES[role]
    assert hit.source == ("Jane Roe.png" if may else None)


def test_a_revoked_grant_ends_the_next_search() -> None:
    reader, mine = make_user(), make_collection()
    given = grant(reader, mine)
    make_image(mine, [1, 0, 0])
    assert search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT).hits
    given.delete()

    with pytest.raises(AccessDenied):
        search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT)


def test_a_query_with_nothing_in_it_is_refused() -> None:
    with pytest.raises(ValueError, match="needs"):
        Query("   ")


def test_the_plan_touches_permitted_partitions_only() -> None:
    reader, mine, foreign = make_user(), make_collection(), make_collection()
    grant(reader, mine)
    make_images(mine, [[1, 0, 0]] * 3)
    make_images(foreign, [[1, 0, 0]] * 3)

    with (
        access.acting_as(reader, Purpose.TREATMENT),
        CaptureQueriesContext(connection) as captured,
    ):
        index.nearest(
            np.array([1, 0, 0], np.float32),
            within=[mine.pk],
            encoder=index.live_encoder(),
            limit=5,
        )
    (query,) = [q["sql"] for q in captured if "<=>" in q["sql"]]
    with access.acting_as(reader, Purpose.TREATMENT), connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {query}")
        plan = " ".join(row[0] for row in cursor.fetchall())
    assert f"retrieval_embedding_c{mine.pk}" in plan
    assert f"retrieval_embedding_c{foreign.pk}" not in plan


def last_event() -> AuditEvent:
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        event = AuditEvent.objects.first()
    assert event is not None
    return event
