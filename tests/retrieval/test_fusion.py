import numpy as np
import pytest

from retrieval import fusion

X, Y, Z = np.eye(3, dtype=np.float32)


def test_weights_say_how_much_of_each_part_is_wanted() -> None:
    alike = fusion.combine([(X, 1.0), (Y, 1.0)])
    mostly_x = fusion.combine([(X, 3.0), (Y, 1.0)])

    assert alike @ X == pytest.approx(alike @ Y)
    assert mostly_x @ X > alike @ X
    assert np.linalg.norm(mostly_x) == pytest.approx(1.0, abs=1e-6)


def test_what_is_not_wanted_pushes_away_and_never_drowns_the_query() -> None:
    mixed = fusion.combine([(X, 1.0), (Y, -1.0)])

    assert mixed @ Y < 0 < mixed @ X
    assert mixed @ X > abs(mixed @ Y)


def test_judged_images_move_a_query_by_rocchio_s_weights() -> None:
    moved = fusion.combine([(X, 1.0)], liked=[Y], disliked=[Z])

    expected = np.array([1, fusion.LIKED_WEIGHT, -fusion.DISLIKED_WEIGHT])
    assert moved == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def test_liked_images_alone_are_a_query() -> None:
    assert fusion.combine([], liked=[X, Y]) @ X == pytest.approx(np.sqrt(0.5), abs=1e-6)


def test_a_query_that_wants_nothing_or_cancels_out_is_refused() -> None:
    with pytest.raises(ValueError, match="wants"):
        fusion.combine([(X, -1.0)])
    with pytest.raises(ValueError, match="cancel"):
        fusion.combine([(X, 1.0), (-X, 1.0)])


def test_reciprocal_ranks_prefer_what_several_rankings_agree_on() -> None:
    fused = fusion.fuse_ranks([(["a", "b", "c"], 1.0), (["d", "b", "c"], 1.0)])

    assert [item for item, _ in fused] == ["b", "c", "a", "d"]
    assert fused[0][1] == pytest.approx((2 / 62) / (2 / 61))


def test_the_first_of_all_rankings_has_the_score_one() -> None:
    ((_, score),) = fusion.fuse_ranks([(["a"], 2.0), (["a"], 0.5)])

    assert score == pytest.approx(1.0)


def test_variety_brings_the_unlike_before_the_second_of_two_alike() -> None:
    vectors = np.stack([X, X, Y])
    similarities = np.array([0.9, 0.89, 0.7])

    assert fusion.diversify(similarities, vectors, diversity=0.0, limit=3) == [0, 1, 2]
    assert fusion.diversify(similarities, vectors, diversity=0.5, limit=2) == [0, 2]
