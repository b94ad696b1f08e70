import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from retrieval import access, index, queue
from retrieval.errors import AccessDenied, AuditUnavailable, EncoderUnavailable, SearchTooSlow
from retrieval.index import Filter, Metric
from retrieval.models import (
    AuditEvent,
    Collection,
    Kind,
    Purpose,
    Role,
    State,
    Subject,
    User,
)
from retrieval.models.grant import CAPABILITIES, Capability, roles_with
from retrieval.models.image import Region
from retrieval.query import Fusion, Group, Part, Query
from retrieval.search import near_duplicates, search
from tests import database
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
    monkeypatch.setattr(queue, "encode_query", points_along_x)
    make_encoder()


def points_along_x(parts: Sequence[queue.ToEncode], **_: object) -> queue.QueryVectors:
    return queue.QueryVectors("test-encoder", (np.array([1, 0, 0], np.float32),) * len(parts))


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
    def nobody_answers(*_: object, **__: object) -> None:
        raise EncoderUnavailable

    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    monkeypatch.setattr(queue, "encode_query", nobody_answers)

    with pytest.raises(EncoderUnavailable):
        search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT)

    assert last_event().kind == Kind.SEARCH_FAILED


def test_a_search_whose_every_statement_may_take_too_long_says_one_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slowly(_ids: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(5)")

    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    monkeypatch.setattr(access, "READ_LIMIT_S", 0.2)
    monkeypatch.setattr("retrieval.search._indexed", slowly)

    with pytest.raises(SearchTooSlow):
        search(Query("anything"), actor=reader, purpose=Purpose.TREATMENT)

    assert last_event().kind == Kind.SEARCH_FAILED
    assert json.loads(last_event().details)["error"] == "SearchTooSlow"


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


def test_no_statement_of_any_search_has_a_foreign_partition_in_its_plan() -> None:
    reader, mine, foreign = make_user(), make_collection(), make_collection()
    grant(reader, mine)
    first, *_ = make_images(mine, [[1, 0, a / 100] for a in range(40)], perceptual_hash="01" * 32)
    make_images(foreign, [[1, 0, 0]] * 3)
    shapes = [
        Query("words"),
        Query("words", where=Filter(media_types=("image/png",), tags=("any",))),
        Query("words", liked=(first.pk,), diversity=0.5),
        Query("words", group=Group.STUDY),
        Query("words", metric=Metric.MANHATTAN),
        Query("words", parts=(Part(like=first.pk),), fusion=Fusion.RANKS),
    ]
    by: dict[str, Any] = {"actor": reader, "purpose": Purpose.TREATMENT}

    with CaptureQueriesContext(connection) as captured:
        for query in shapes:
            search(query, **by)
        near_duplicates(first.pk, **by)

    reads = [q["sql"] for q in captured if "retrieval_embedding" in q["sql"]]
    assert len(reads) > 2 * len(shapes)
    with access.acting_as(reader, Purpose.TREATMENT):
        plans = [database.plan_of(read) for read in reads]
    for plan in plans:
        assert f"retrieval_embedding_c{mine.pk}" in plan
        assert f"retrieval_embedding_c{foreign.pk}" not in plan


def found(query: Query, reader: User, **options: Any) -> list[uuid.UUID]:
    answer = search(query, actor=reader, purpose=Purpose.TREATMENT, **options)
    return [hit.image_id for hit in answer.hits]


@pytest.fixture
def mine(db: None) -> Collection:
    return make_collection()


@pytest.fixture
def reader(mine: Collection) -> User:
    user = make_user()
    grant(user, mine)
    return user


def test_what_is_liked_comes_nearer_and_what_is_disliked_goes_away(
    mine: Collection, reader: User
) -> None:
    liked, disliked = make_images(mine, [[1, 1, 0], [1, 0, 1]])

    query = Query("anything", liked=(liked.pk,), disliked=(disliked.pk,))

    assert found(query, reader) == [liked.pk, disliked.pk]
    query = Query("anything", liked=(disliked.pk,), disliked=(liked.pk,))
    assert found(query, reader) == [disliked.pk, liked.pk]


@pytest.mark.parametrize("field", ["liked", "disliked", "parts", "unwanted"])
def test_no_foreign_image_is_told_from_a_missing_one_wherever_it_is_named(
    mine: Collection, reader: User, field: str
) -> None:
    make_image(mine, [1, 0, 0])
    hidden = make_image(make_collection(), [1, 0, 0])

    def named(image_id: uuid.UUID) -> Query:
        if field == "liked":
            return Query("anything", liked=(image_id,))
        if field == "disliked":
            return Query("anything", disliked=(image_id,))
        weight = -1.0 if field == "unwanted" else 1.0
        return Query(
            "anything", parts=(Part(like=image_id, region=Region(0, 0, 9, 9), weight=weight),)
        )

    messages = set()
    for image_id in (hidden.pk, uuid.uuid4()):
        with pytest.raises(AccessDenied) as denied:
            found(named(image_id), reader)
        messages.add(str(denied.value))
    assert len(messages) == 1
    assert last_event().kind == Kind.SEARCH_FAILED


def test_an_image_that_is_not_indexed_is_no_example(mine: Collection, reader: User) -> None:
    waiting = make_image(mine, [1, 0, 0], state=State.DEIDENTIFIED)

    with pytest.raises(AccessDenied):
        found(Query(like=waiting.pk), reader)


def test_a_region_of_a_stored_image_is_cut_out_by_the_worker(
    mine: Collection, reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(mine, [0, 1, 0])
    asked: list[queue.ToEncode] = []

    def encode_query(parts: Sequence[queue.ToEncode], **options: object) -> queue.QueryVectors:
        asked.extend(parts)
        return points_along_x(parts)

    monkeypatch.setattr(queue, "encode_query", encode_query)

    found(Query(like=image.pk, region=Region(1, 2, 30, 40)), reader)

    assert asked == [queue.ToEncode(stored=(mine.pk, image.pk), region=Region(1, 2, 30, 40))]


def test_ranks_are_fused_where_it_is_asked_for(mine: Collection, reader: User) -> None:
    (both, example) = make_images(mine, [[1, 1, 0], [0, 1, 0]])
    make_images(mine, [[1, 0, n / 20] for n in range(9)])
    make_images(mine, [[0, 1, n / 20] for n in range(1, 9)])

    query = Query("anything", like=example.pk, fusion=Fusion.RANKS)
    answer = search(query, actor=reader, purpose=Purpose.TREATMENT, limit=2)

    assert answer.hits[0].image_id == both.pk
    assert all(0 < hit.score <= 1 for hit in answer.hits)


def test_variety_is_chosen_among_more_than_what_is_shown(mine: Collection, reader: User) -> None:
    alike = make_images(mine, [[1, 0.01 * n, 0] for n in range(5)])
    (other,) = make_images(mine, [[0.7, 0, 0.7]])

    assert other.pk not in found(Query("anything"), reader, limit=2)
    assert found(Query("anything", diversity=0.6), reader, limit=2) == [alike[0].pk, other.pk]


def test_an_answer_by_subject_shows_each_once_and_is_filled_from_behind(
    mine: Collection, reader: User
) -> None:
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        one, two = (Subject.objects.create(collection=mine, pseudonym=p) for p in ("1", "2"))
    # More of them than any single look at the index.
    of_one = make_images(mine, [[1, 0.001 * n, 0] for n in range(2100)], subject=one)
    (of_two,) = make_images(mine, [[0.2, 1, 0]], subject=two)
    (unknown,) = make_images(mine, [[0.1, 1, 0]])

    shown = found(Query("anything", group=Group.SUBJECT), reader, limit=3)

    assert shown == [of_one[0].pk, of_two.pk, unknown.pk]


def test_copies_are_shown_once_where_it_is_asked_for(mine: Collection, reader: User) -> None:
    (one,) = make_images(mine, [[1, 0, 0]], perceptual_hash="01" * 32)
    make_images(mine, [[1, 0.1, 0]], perceptual_hash="01" * 31 + "10")
    (other,) = make_images(mine, [[1, 0.2, 0]], perceptual_hash="0011" * 16)
    plain = make_images(mine, [[1, 0.3, 0], [1, 0.4, 0]])

    assert found(Query("anything", group=Group.DUPLICATE), reader) == [
        one.pk,
        other.pk,
        *(image.pk for image in plain),
    ]


def test_near_duplicates_are_found_by_hash_and_by_vector_where_they_may_be_seen(
    mine: Collection, reader: User
) -> None:
    (image,) = make_images(mine, [[1, 0, 0]], perceptual_hash="01" * 32)
    (by_hash,) = make_images(mine, [[0, 1, 0]], perceptual_hash="01" * 30 + "1010")
    (by_vector,) = make_images(mine, [[1, 0.05, 0]])
    make_images(mine, [[0, 0, 1]], perceptual_hash="0011" * 16)
    make_images(make_collection(), [[1, 0, 0]], perceptual_hash="01" * 32)

    answer = near_duplicates(image.pk, actor=reader, purpose=Purpose.TREATMENT)

    assert [hit.image_id for hit in answer.hits] == [by_vector.pk, by_hash.pk]
    assert json.loads(last_event().details)["images"] == [str(by_vector.pk), str(by_hash.pk)]


def test_an_image_found_by_a_part_is_there_once_with_the_part_s_box_and_is_no_copy(
    mine: Collection, reader: User
) -> None:
    whole, by_part, other = make_images(mine, [[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]])
    boxes = [Region(x, 20, 300, 200) for x in range(10, 90, 10)]
    near = np.array([0.999, 0.04, 0])
    with database.role("worker"), access.processing(mine.pk):
        index.store(
            by_part,
            np.eye(3)[1],
            encoder=index.live_encoder(),
            parts=[(box, near + np.array([0, 0, n / 100])) for n, box in enumerate(boxes)],
        )

    for query in (Query("x"), Query("x", diversity=0.1), Query("x", group=Group.SUBJECT)):
        hits = search(query, actor=reader, purpose=Purpose.TREATMENT, limit=3).hits
        assert [(hit.image_id, hit.region) for hit in hits] == [
            (whole.pk, None),
            (by_part.pk, boxes[0]),
            (other.pk, None),
        ]
    copies = near_duplicates(whole.pk, actor=reader, purpose=Purpose.TREATMENT)
    assert copies.hits == []


def test_duplicates_of_a_foreign_image_are_as_if_it_did_not_exist(
    mine: Collection, reader: User
) -> None:
    hidden = make_image(make_collection(), [1, 0, 0])
    messages = set()
    for image_id in (hidden.pk, uuid.uuid4()):
        with pytest.raises(AccessDenied) as denied:
            near_duplicates(image_id, actor=reader, purpose=Purpose.TREATMENT)
        messages.add(str(denied.value))
    assert len(messages) == 1


def test_a_filter_s_tags_are_on_no_log_and_that_there_was_one_is(
    mine: Collection, reader: User
) -> None:
    (tagged,) = make_images(mine, [[0, 1, 0]], tags=["zebrafish"])
    make_images(mine, [[1, 0, 0]])

    assert found(Query("anything", where=Filter(tags=("zebrafish",))), reader) == [tagged.pk]

    assert "zebrafish" not in last_event().details
    assert json.loads(last_event().details)["filters"] == ["tags"]


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        (Metric.COSINE, 0.6),
        (Metric.EUCLIDEAN, 0.6),
        (Metric.INNER_PRODUCT, 0.6),
        (Metric.MANHATTAN, 1 - 1.2 / (2 * 3**0.5)),
    ],
)
def test_scores_of_every_metric_are_bounded(
    mine: Collection, reader: User, metric: Metric, score: float
) -> None:
    make_image(mine, [0.6, 0.8, 0])

    (hit,) = search(Query("anything", metric=metric), actor=reader, purpose=Purpose.TREATMENT).hits

    assert hit.score == pytest.approx(score, abs=2e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"without": "a dog"},
        {"words": "a", "region": Region(0, 0, 9, 9)},
        {"words": "a", "diversity": 1.1},
        {"words": "a", "parts": (Part(words="b"),) * 16},
        {"words": "a", "where": Filter(tags=("t",) * 65)},
        {"words": "a", "liked": (uuid.uuid4(),) * 65},
        {"words": "a", "where": Filter(subjects=(2**63,))},
    ],
)
def test_a_query_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Query(**wrong)


@pytest.mark.parametrize(
    "text", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "-1,0,5,5", "0,0,0,5", "0,0,5,9999999999"]
)
def test_a_region_is_four_whole_numbers_of_pixels(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Region.parse(text)


def test_no_query_prints_its_words_or_its_image() -> None:
    query = Query("zebrafracture", image=b"zebra", parts=(Part(words="zebra"),), without="zebra")

    assert "zebra" not in repr(query)
    assert "zebra" not in repr(queue.ToEncode("zebra", b"zebra"))


@pytest.mark.parametrize(
    ("nearest", "part", "confident"),
    [
        ([1, 0, 0], [0, 0, 1], True),
        ([0.5, 1, 0], [0, 0, 1], False),
        ([0, 1, 0], [1, 0, 0], True),
    ],
)
def test_an_answer_says_whether_its_nearest_image_or_part_stands_out(
    mine: Collection, reader: User, nearest: list[float], part: list[float], confident: bool
) -> None:
    make_images(mine, [[n / 100 - 0.3, 1, 0] for n in range(60)])
    image = make_image(mine)
    whole = np.array(nearest) / np.linalg.norm(nearest)
    with database.role("worker"), access.processing(mine.pk):
        parts = [(Region(0, 0, 100, 100), np.array(part))]
        index.store(image, whole, encoder=index.live_encoder(), parts=parts)

    answer = search(Query(image=b"example"), actor=reader, purpose=Purpose.TREATMENT)

    assert answer.confident is confident


def test_of_a_few_images_it_is_not_told_whether_one_stands_out(
    mine: Collection, reader: User
) -> None:
    make_images(mine, [[1, 0, 0], [0, 1, 0]])

    answer = search(Query(image=b"example"), actor=reader, purpose=Purpose.TREATMENT)

    assert answer.confident is None


def test_what_stands_out_is_told_from_permitted_images_alone(
    mine: Collection, reader: User
) -> None:
    (hidden, *_) = make_images(make_collection(), [[0.1, 1, n / 60] for n in range(60)])
    image = make_image(mine, [1, 0, 0])

    with access.acting_as(reader, Purpose.TREATMENT):
        (own, among), (foreign, _) = (
            index.background(
                np.array([1, 0, 0], np.float32),
                beside=index.Neighbour(beside.pk, beside.collection_id, 0, 0.0),
                within=[mine.pk],
                encoder=index.live_encoder(),
            )
            for beside in (image, hidden)
        )

    assert own.tolist() == [[1, 0, 0]]
    assert not len(foreign)
    assert among.tolist() == [1.0]


def test_images_with_parts_are_held_against_one_another_by_their_nearest_rows(
    mine: Collection, reader: User
) -> None:
    images = make_images(mine, [[0, 1, 0]] * 3)
    with database.role("worker"), access.processing(mine.pk):
        for image, near in zip(images, (0.6, 0.0, -0.6), strict=True):
            parts = [(Region(0, 0, 9, 9), np.array(v)) for v in ([near, 0.8, 0], [-1, 0, 0])]
            index.store(image, np.eye(3)[1], encoder=index.live_encoder(), parts=parts)

    with access.acting_as(reader, Purpose.TREATMENT):
        own, among = index.background(
            np.array([1, 0, 0], np.float32),
            beside=index.Neighbour(images[0].pk, mine.pk, 0, 0.0),
            within=[mine.pk],
            encoder=index.live_encoder(),
        )

    assert sorted(row[0] for row in own.tolist()) == pytest.approx([-1, 0, 0.6], abs=1e-3)
    assert sorted(among.tolist()) == pytest.approx([0, 0, 0.6], abs=1e-3)


def test_a_served_search_is_six_messages_to_the_database(mine: Collection, reader: User) -> None:
    """Each costs a round trip and a turn of two processes; see docs/benchmarks.md, goal 7."""
    make_images(mine, [[n / 100 - 0.3, 1, 0] for n in range(60)])
    found(Query("anything"), reader)  # which sizes are known from then on

    with CaptureQueriesContext(connection) as captured:
        found(Query("anything"), reader)

    said = re.compile(r"FROM (retrieval_\w+)|(cloister_audit_append)")
    assert [said.search(message["sql"]).group(0) for message in captured] == [  # type: ignore[union-attr]
        "FROM retrieval_collection",
        "FROM retrieval_encoderversion",
        "FROM retrieval_embedding",
        "FROM retrieval_image",
        "FROM retrieval_embedding",  # what the nearest is held against
        "cloister_audit_append",
    ]


def test_a_switch_while_a_query_is_encoded_is_no_error_and_mixes_no_spaces(
    mine: Collection, reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(mine, [0.6, 0.8, 0])
    first, second = index.live_encoder(), make_encoder(5, "second")
    with database.role("worker"), access.processing(mine.pk):
        index.store(image, np.eye(5, dtype=np.float32)[1], encoder=second)
    asked: list[str] = []

    def switch_meanwhile(
        parts: Sequence[queue.ToEncode], *, encoder: str, **_: object
    ) -> queue.QueryVectors:
        """The worker has no use for the old encoder's name any more."""
        asked.append(encoder)
        if encoder == first.name:
            with database.role("worker"):
                index.switch(second)
                index.retire(first)
            raise EncoderUnavailable
        return queue.QueryVectors(encoder, (np.eye(5, dtype=np.float32)[1],) * len(parts))

    monkeypatch.setattr(queue, "encode_query", switch_meanwhile)

    answer = search(Query(image=b"example"), actor=reader, purpose=Purpose.TREATMENT)

    assert [(hit.image_id, hit.score) for hit in answer.hits] == [(image.pk, 1.0)]
    assert asked == ["test-encoder", "second"]
    assert last_event().kind == Kind.SEARCH_SERVED


def test_vectors_that_are_dropped_while_they_are_read_are_asked_for_elsewhere(
    mine: Collection, reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(mine, [1, 0, 0])
    first, second = index.live_encoder(), make_encoder(3, "second")
    with database.role("worker"), access.processing(mine.pk):
        index.store(image, np.eye(3, dtype=np.float32)[0], encoder=second)

    def encode_query(
        parts: Sequence[queue.ToEncode], *, encoder: str, **_: object
    ) -> queue.QueryVectors:
        """Answers yet, and the last vectors go before they are looked at."""
        if encoder == first.name:
            with database.role("worker"):
                index.switch(second)
                index.retire(first)
        return queue.QueryVectors(encoder, (np.eye(3, dtype=np.float32)[0],) * len(parts))

    monkeypatch.setattr(queue, "encode_query", encode_query)

    assert found(Query(image=b"example"), reader) == [image.pk]


def last_event() -> AuditEvent:
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        event = AuditEvent.objects.first()
    assert event is not None
    return event
