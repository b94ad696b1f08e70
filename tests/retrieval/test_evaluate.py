import json
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command

from retrieval import access, evaluate, queue
from retrieval.errors import AccessDenied, QueriesUnreadable
from retrieval.evaluate import Judged, Outcome, intervals, measures, summary
from retrieval.models import AuditEvent, Kind, Purpose, Role
from tests.factories import grant, make_collection, make_encoder, make_image, make_user, operator


def judged(ranks: tuple[int, ...], relevant: int) -> dict[str, float]:
    return measures(Outcome(ranks, relevant, 1.0, frozenset()))


def test_measures_of_a_textbook_ranking() -> None:
    # Three relevant; found at 1, 3 and 7.
    found = judged((1, 3, 7), 3)
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@5"] == pytest.approx(2 / 3)
    assert found["precision@10"] == pytest.approx(0.3)
    assert found["f1@10"] == pytest.approx(2 * 0.3 / 1.3)
    assert found["map"] == pytest.approx((1 + 2 / 3 + 3 / 7) / 3)
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / 3) / ideal)


def test_nothing_found_is_nought_and_all_found_first_is_one() -> None:
    assert set(judged((), 2).values()) == {0.0, 1.0}  # 1.0: agreement with the exact scan
    found = judged(tuple(range(1, 11)), 10)
    assert found["map"] == found["ndcg@10"] == found["precision@10"] == found["recall@10"] == 1.0


def test_an_interval_holds_the_mean_and_narrows_with_more_queries() -> None:
    few = [Outcome((1,) if n % 2 else (), 1, 1.0, frozenset()) for n in range(20)]
    (low, high), (lower, higher) = (intervals(o)["recall@1"] for o in (few, few * 50))
    assert low < summary(few)["recall@1"] < high
    assert higher - lower < (high - low) / 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"query\trelevant\n",
        b"words\tfile\na dog\t1.jpg\n",
        b"query\trelevant\na dog\t\n",
        b"query\trelevant\n\t1.jpg\n",
        b"query\trelevant\na dog\n",
        b"query\trelevant\n\xff\t1.jpg\n",
    ],
)
def test_a_file_that_is_no_query_file_is_refused_in_one_line(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "queries.tsv"
    file.write_bytes(content)
    with pytest.raises(QueriesUnreadable):
        evaluate.read_queries(file)
    with pytest.raises(QueriesUnreadable):
        evaluate.read_queries(tmp_path / "missing.tsv")


def test_quotes_in_a_query_are_words_like_others(tmp_path: Path) -> None:
    file = tmp_path / "queries.tsv"
    file.write_text('\ufeffquery\trelevant\r\n"a dog" runs\t1.jpg 2.jpg\r\n', encoding="utf-8")
    assert evaluate.read_queries(file) == [Judged('"a dog" runs', frozenset({"1.jpg", "2.jpg"}))]


@pytest.fixture
def _words_point_along_axes(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words name an axis of a space of three dimensions."""
    axes = dict(zip(("x", "y", "z"), np.eye(3, dtype=np.float32), strict=True))
    monkeypatch.setattr(
        queue,
        "encode_query",
        lambda parts, **_: queue.QueryVectors(
            "test-encoder", tuple(axes.get(part.words, axes["x"]) for part in parts)
        ),
    )
    make_encoder()


@pytest.mark.usefixtures("_words_point_along_axes")
def test_an_evaluation_ranks_what_the_actor_may_search_and_nothing_else() -> None:
    curator, mine, foreign = make_user(), make_collection(), make_collection()
    grant(curator, mine, Role.CURATOR)
    make_image(mine, [1, 0.1, 0], name="folder/one.png")
    make_image(mine, [0.5, 1, 0], name="two.png")
    make_image(foreign, [1, 0, 0], name="hidden.png")
    queries = [
        Judged("x", frozenset({"one.png"})),
        Judged("x", frozenset({"two.png"})),
        Judged("x", frozenset({"hidden.png"})),
    ]

    found = evaluate.evaluate(queries, actor=curator, purpose=Purpose.TREATMENT)

    assert [outcome.ranks for outcome in found.outcomes] == [(1,), (2,), ()]
    assert found.unknown == 1
    assert evaluate.by_collection(found).keys() == {mine.name}
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        event = AuditEvent.objects.get(number=found.audit_number)
    assert event.kind == Kind.SEARCH_EVALUATED
    assert "png" not in event.details


@pytest.mark.usefixtures("_words_point_along_axes")
def test_who_may_not_see_source_names_may_not_evaluate_by_them() -> None:
    searcher, mine = make_user(), make_collection()
    grant(searcher, mine, Role.SEARCHER)
    make_image(mine, [1, 0, 0])
    with pytest.raises(AccessDenied):
        evaluate.evaluate(
            [Judged("x", frozenset({"picture.png"}))], actor=searcher, purpose=Purpose.TREATMENT
        )


@pytest.mark.usefixtures("_words_point_along_axes")
def test_who_may_only_search_evaluates_by_ids_over_what_may_be_searched() -> None:
    searcher, mine, foreign = make_user(), make_collection(), make_collection()
    grant(searcher, mine, Role.SEARCHER)
    image, hidden = make_image(mine, [1, 0.2, 0]), make_image(foreign, [1, 0, 0])

    found = evaluate.evaluate(
        [Judged("x", frozenset({str(image.pk)})), Judged("x", frozenset({str(hidden.pk)}))],
        actor=searcher,
        purpose=Purpose.TREATMENT,
    )

    assert [outcome.ranks for outcome in found.outcomes] == [(1,), ()]
    assert [outcome.exact for outcome in found.outcomes] == [1.0, 1.0]


def test_precision_at_the_cut_off_is_that_of_confident_queries_alone() -> None:
    outcomes = [
        Outcome((1,), 1, 1.0, frozenset(), confident=True),
        Outcome((2,), 1, 1.0, frozenset(), confident=True),
        Outcome((1,), 1, 1.0, frozenset(), confident=False),
        Outcome((), 1, 1.0, frozenset(), confident=None),
    ]

    found = summary(outcomes)

    assert (found["confident"], found["precision@cut-off"]) == (0.5, 0.5)
    assert "confident" not in summary(outcomes[3:])


@pytest.mark.usefixtures("_words_point_along_axes")
def test_several_users_and_encoders_are_measured_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "wait_for_query_worker", lambda timeout_s: None)
    one, two = make_collection("one"), make_collection("two")
    curator = make_user("curator")
    grant(curator, two, Role.CURATOR, Purpose.OPERATIONS)
    make_image(one, [1, 0, 0], name="one.png")
    make_image(two, [1, 0.1, 0], name="two.png")
    file = tmp_path / "queries.tsv"
    file.write_text("query\trelevant\nx\ttwo.png\n")

    call_command(
        "evaluate", queries=file, users=["operator", "curator"], models=["test-encoder"], json=True
    )

    entries = json.loads(capsys.readouterr().out)["models"]
    assert [(e["as"], e["recall@1"]) for e in entries] == [("operator", 0.0), ("curator", 1.0)]


@pytest.mark.usefixtures("_words_point_along_axes")
def test_the_command_prints_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "wait_for_query_worker", lambda timeout_s: None)
    make_image(make_collection("pictures"), [1, 0, 0], name="one.png")
    file = tmp_path / "queries.tsv"
    file.write_text("query\trelevant\nx\tone.png\ny\tone.png\n")

    call_command("evaluate", queries=file, json=True)

    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert (model["model"], model["queries"], model["recall@1"]) == ("test-encoder", 2, 1.0)
    assert {"recall@5", "recall@10", "precision@10", "map", "ndcg@10"} <= model.keys()
    assert model["profiles"].keys() == {"photographs"}
