"""Whether the nearest image is an answer, or only the nearest there is.

A cut-off on scores cannot say it: how near is near depends on the encoder, on the query and on the
image. The nearest image must stand out on both sides: from what else there is, under this query
(z-score against a sample of what may be seen), and from what else may be asked, under this image
(against words that have nothing to do with one another; a few images are near to every query:
Radovanović et al. 2010, "Hubs in Space"). Measured in docs/benchmarks.md.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from retrieval import index, queue
from retrieval.errors import EncoderUnavailable
from retrieval.models import EncoderVersion

NOBODY: Final = 0
"""Who asks the worker in the appliance's own name."""
STANDS_OUT: Final = 3.0
"""Standard deviations above the mean on either side, chosen on Flickr8k's val."""
FEWEST: Final = 30
"""Fewer scores tell no distribution."""


def stands_out(
    nearest: index.Neighbour,
    vector: np.ndarray,
    words: Sequence[np.ndarray],
    *,
    within: Sequence[int],
    encoder: EncoderVersion,
) -> bool | None:
    """Whether the image that is nearest to `vector` is an answer, inside `access.reading_as`.

    Of images with parts, its nearest row is held against the nearest row of each of the others,
    and against the row of its own that is nearest to other words: the best of five is better than
    one by chance. words: those of `other_words`, or none where the query is more than words. None
    where there is too little to tell.
    """
    rows, among_images = index.background(vector, beside=nearest, within=within, encoder=encoder)
    if not len(rows):
        return None
    among_words = np.array([float((rows @ other).max()) for other in words])
    return is_confident(float((rows @ vector).max()), among_images, among_words)


@lru_cache(maxsize=4)
def other_words(encoder_name: str) -> Sequence[np.ndarray]:
    """The vectors of OTHER_WORDS, encoded once for each encoder and process. Raises as
    `queue.encode_query`."""
    parts = [queue.ToEncode(words=each) for each in OTHER_WORDS]
    encoded = queue.encode_query(parts, asker=NOBODY, encoder=encoder_name)
    if encoded.encoder != encoder_name:
        raise EncoderUnavailable("the live encoder changed while the query was encoded")
    return encoded.vectors


def is_confident(score: float, among_images: np.ndarray, among_words: np.ndarray) -> bool | None:
    """Whether `score` stands out; None where there is too little to tell.

    among_images: (n,) scores of the query with other images. among_words: (n,) scores of the
    nearest image with other words, empty where the query is more than words.
    """
    known = [others for others in (among_images, among_words) if len(others) >= FEWEST]
    deviations = [
        (score - float(others.mean())) / float(others.std()) for others in known if others.std() > 0
    ]
    return min(deviations) >= STANDS_OUT if deviations else None


OTHER_WORDS: Final = (
    "a dog runs across the grass",
    "a cat sleeps on a sofa",
    "two children play in the water",
    "a woman in a red coat on the street",
    "a man rides a bicycle",
    "a crowd at a concert",
    "a climber on a steep rock",
    "skiers on a snowy mountain",
    "a football match in a stadium",
    "a boat on a calm lake",
    "an old car parked beside a house",
    "a train at a station",
    "an aeroplane above the clouds",
    "a horse jumps over a fence",
    "birds on a wire",
    "a bowl of fruit on a table",
    "a cup of coffee",
    "a bridge at night",
    "a waterfall in a forest",
    "a desert with dunes",
    "a flower in close-up",
    "an empty corridor",
    "a kitchen with white cupboards",
    "a shelf full of books",
    "stars in the night sky",
    "an aerial view of fields",
    "a street map",
    "a page of printed text",
    "a handwritten note",
    "a bar chart",
    "a line drawing of a machine part",
    "a circuit board",
    "a weld seam",
    "a cracked tile",
    "a screw on a grey background",
    "a chest X-ray",
    "an X-ray of a hand",
    "a CT slice of the head",
    "an MRI of the knee",
    "an ultrasound image",
    "cells under a microscope",
    "a stained tissue section",
    "the back of an eye",
    "a skin lesion",
    "teeth in a panoramic radiograph",
    "a company logo",
    "a screenshot of a web page",
    "a bar code",
)
"""Of many fields, so that for any image nearly all of them are beside the point."""
