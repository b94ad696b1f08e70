import json
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command

from retrieval import access, evaluate, queue
from retrieval.errors import AccessDenied
from retrieval.evaluate import Outcome, intervals, measures, of_findable, summary
from retrieval.judged import Judged
from retrieval.models import AuditEvent, Kind, Purpose, Role
from tests.factories import (
    grant,
    make_collection,
    make_encoder,
    make_image,
    make_images,
    make_user,
    operator,
)


def judged(ranks: tuple[int, ...], relevant: int) -> dict[str, float]:
    return measures(Outcome(ranks, relevant, findable=relevant))


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
    nothing, all_found = judged((), 2), judged(tuple(range(1, 11)), 10)
    of_quality = nothing.keys() - {"findable", "exact@10"}
    assert {nothing[name] for name in of_quality} == {0.0}
    assert all_found["map"] == all_found["ndcg@10"] == all_found["precision@10"] == 1.0
    assert (all_found["recall@10"], all_found["recall@5"]) == (1.0, 0.5)
    assert all_found["f1@5"] == pytest.approx(2 / 3)


def test_of_fewer_relevant_than_ranks_precision_stays_low_and_the_ideal_is_short() -> None:
    found = judged((2,), 1)
    assert (found["recall@1"], found["recall@5"], found["precision@5"]) == (0.0, 1.0, 0.2)
    assert found["map"] == 0.5
    assert found["ndcg@10"] == pytest.approx(1 / np.log2(3))


def test_what_may_not_be_found_lowers_recall_and_is_told_apart() -> None:
    half, none = Outcome((1,), 2, findable=1), Outcome((), 1, findable=0)
    assert measures(half)["recall@10"] == measures(half)["findable"] == 0.5
    assert measures(half)["ndcg@10"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert of_findable([half, none]) == [Outcome((1,), 1, findable=1)]


def test_an_interval_holds_the_mean_and_narrows_with_more_queries() -> None:
    few = [Outcome((1,) if n % 2 else (), 1, 1, confident=n % 4 > 1) for n in range(20)]
    for measure in ("recall@1", "precision@cut-off"):
        (low, high), (lower, higher) = (intervals(o)[measure] for o in (few, few * 50))
        assert low < summary(few)[measure] < high
        assert higher - lower < (high - low) / 3


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
        Judged("x", frozenset({"hidden.png"}), line=4),
    ]

    found = evaluate.evaluate(queries, actor=curator, purpose=Purpose.TREATMENT)

    assert [outcome.ranks for outcome in found.outcomes] == [(1,), (2,), ()]
    assert (found.unknown, found.unknown_lines) == (1, [4])
    assert evaluate.by_collection(found).keys() == {mine.name}
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        event = AuditEvent.objects.get(number=found.audit_number)
    assert event.kind == Kind.SEARCH_EVALUATED
    assert "png" not in event.details


@pytest.mark.usefixtures("_words_point_along_axes")
def test_a_name_in_several_collections_is_whichever_of_them_one_may_search() -> None:
    curator = make_user()
    near, far, foreign = make_collection(), make_collection(), make_collection()
    for mine in (near, far):
        grant(curator, mine, Role.CURATOR)
    image = make_image(near, [1, 0.2, 0], name="one.png")
    make_image(far, [1, 0.3, 0], name="folder/one.png")
    make_image(foreign, [1, 0, 0], name="one.png")
    queries = [
        Judged("x", frozenset({"one.png"})),
        Judged("x", frozenset({"folder/one.png"})),
        Judged("x", frozenset({str(image.pk), "one.png"})),
    ]

    found = evaluate.evaluate(queries, actor=curator, purpose=Purpose.TREATMENT)

    assert [(o.ranks, o.relevant) for o in found.outcomes] == [((1,), 1), ((2,), 1), ((1,), 1)]
    assert found.outcomes[0].collections == {near.pk, far.pk}
    assert {name: len(o) for name, o in evaluate.by_collection(found).items()} == {
        near.name: 2,
        far.name: 3,
    }


@pytest.mark.usefixtures("_words_point_along_axes")
def test_images_at_one_distance_are_all_as_near_as_the_exact_scan_s_last() -> None:
    curator, mine = make_user(), make_collection()
    grant(curator, mine, Role.CURATOR)
    images = make_images(mine, [[1, 0, 0]] * 15)
    asked = [Judged("x", frozenset({str(image.pk)})) for image in images]

    outcomes = [
        outcome
        for _ in range(2)
        for outcome in evaluate.evaluate(asked, actor=curator, purpose=Purpose.TREATMENT).outcomes
    ]

    assert {outcome.exact for outcome in outcomes} == {1.0}
    assert sorted(o.ranks for o in outcomes[:15]) == [(rank,) for rank in range(1, 16)]
    assert outcomes[:15] == outcomes[15:]


@pytest.mark.usefixtures("_words_point_along_axes")
def test_an_image_counts_under_the_rules_it_was_de_identified_by() -> None:
    curator = make_user()
    old, new = make_collection(), make_collection(profile="clinical")
    for mine in (old, new):
        grant(curator, mine, Role.CURATOR)
    images = [
        make_image(old, [1, 0, 0]),
        make_image(old, [1, 0, 0], rules_digest=new.profile.rules_digest),
        make_image(new, [1, 0, 0], rules_digest="0" * 64),
    ]
    asked = [Judged("x", frozenset({str(image.pk)})) for image in images]

    found = evaluate.evaluate(asked, actor=curator, purpose=Purpose.TREATMENT)

    assert [*evaluate.by_profile(found)] == ["clinical", "earlier rules", "photographs"]
    assert evaluate.by_profile(found)["clinical"] == [found.outcomes[1]]


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
        Outcome((1,), 1, 1, confident=True),
        Outcome((2,), 1, 1, confident=True),
        Outcome((1,), 1, 1, confident=False),
        Outcome((), 1, 1, confident=None),
    ]

    found = summary(outcomes)

    assert (found["confident"], found["precision@cut-off"]) == (0.5, 0.5)
    assert summary(outcomes[2:])["precision@cut-off"] == 0.0
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
    file.write_text("query\trelevant\nx\tone.png\ny\tone.png\ny\tgone.png\n")

    call_command("evaluate", queries=file, json=True)

    document = json.loads(capsys.readouterr().out)
    (model,) = document["models"]
    assert (model["model"], model["queries"], model["recall@1"]) == ("test-encoder", 3, 0.6667)
    assert {"recall@5", "recall@10", "precision@10", "map", "ndcg@10"} <= model.keys()
    parts = (model["profiles"]["photographs"], model["collections"]["pictures"])
    for entry in (model["of_findable"], *parts):
        assert (entry["queries"], entry["recall@1"]) == (2, 1.0)
        assert entry["interval_95"]["recall@1"] == [1.0, 1.0]
    assert (document["unknown"], model["unknown_lines"]) == (1, [4])

    call_command("evaluate", queries=file)

    told = capsys.readouterr().out
    assert "what is findable" in told
    assert "precision@10" in told
