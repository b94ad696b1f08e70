import numpy as np
import pytest

from retrieval.confidence import FEWEST, OTHER_WORDS, STANDS_OUT, is_confident

SCORES = np.random.default_rng(0).normal(0.2, 0.1, 100)
NONE = np.zeros(0)


def at(deviations: float) -> float:
    return float(SCORES.mean() + deviations * SCORES.std())


def test_what_stands_out_from_the_other_images_is_confident() -> None:
    assert is_confident(at(STANDS_OUT + 0.1), SCORES, NONE) is True
    assert is_confident(at(STANDS_OUT - 0.1), SCORES, NONE) is False


def test_an_image_that_is_near_to_any_words_is_not_confident() -> None:
    assert is_confident(0.9, SCORES, SCORES + 0.6) is False
    assert is_confident(0.9, SCORES, SCORES) is True


@pytest.mark.parametrize("others", [NONE, SCORES[: FEWEST - 1], np.full(100, 0.5)])
def test_too_little_to_tell_is_said(others: np.ndarray) -> None:
    assert is_confident(0.9, others, others) is None


def test_there_are_other_words_enough() -> None:
    assert len(set(OTHER_WORDS)) == len(OTHER_WORDS) >= FEWEST
