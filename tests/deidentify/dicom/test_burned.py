"""The score of words burned into pixels tells a cover from none, and other changes from both."""

from itertools import islice

import numpy as np
import pytest

from workers.deidentify.dicom import burned, pixels
from workers.deidentify.dicom.mapping import Mapping
from workers.deidentify.dicom.pixels import Covered, Frames, Mask

MAPPING = Mapping(b"k" * 32)


@pytest.mark.parametrize(("is_covered", "hidden"), [(True, 1), (False, 0)])
def test_a_word_is_hidden_where_one_value_lies_over_it(is_covered: bool, hidden: int) -> None:
    def look(frames: Frames) -> Mask:
        mask = np.zeros(frames.shape[1:3], bool)
        mask[-60:] = is_covered
        return mask

    def deidentify(content: bytes) -> Covered:
        return pixels.covered_object(content, MAPPING, look, says_clean=True)

    score = burned.score(islice(burned.burn(1), 1), deidentify)

    assert score.hidden == hidden
    assert score.retained == 1


def test_an_object_that_is_held_back_is_counted_by_itself() -> None:
    score = burned.score(islice(burned.burn(1), 1), lambda _: Covered(None, {}))

    assert (score.objects, score.held_back) == (1, 1)
