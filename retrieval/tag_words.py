"""Tags that the encoder sets: a collection's words, and from which score on an image bears one.

A flat cut-off on similarities does not serve: how near is near depends on the word, on the image
and on the encoder. A score is the margin of the word over words that have nothing to do with one
another, for the same image. It must stand out on both sides: from what those other words score,
and from what the collection's own images score, most of which do not show it. No labels are
needed. Measured on Flickr8k in docs/benchmarks.md.
"""

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np

from retrieval import access, audit, confidence, index, queue
from retrieval.errors import EncoderUnavailable, NoTextTower
from retrieval.models import (
    Collection,
    Embedding,
    EncoderVersion,
    IndexPart,
    Kind,
    Purpose,
    Reads,
    TagThreshold,
    TagWord,
    User,
)
from retrieval.models.grant import Capability
from retrieval.tags import require_fit

log = logging.getLogger("cloister.tag_words")

LEAST_IMAGES: Final = 100
"""Fewer tell too little of what a score is worth: nothing is tagged."""
MOST_IMAGES: Final = 4000
GROWN: Final = 2
"""Thresholds are chosen anew when there is so many times as much to choose them from."""
PROMPTS: Final = ("{}", "a photo of a {}", "a picture that shows {}")
"""A word is asked for in several ways: Radford et al. 2021 (CLIP), section 3.1.4."""
ABOVE_OTHER_IMAGES: Final = 3.0
ABOVE_OTHER_WORDS: Final = 2.5
"""Standard deviations, chosen on one half of Flickr8k's val such that a word that nothing shows is
set on one image of a hundred at most."""


def set_words(
    collection: Collection, words: Sequence[str], *, actor: User, purpose: Purpose
) -> None:
    """Replace a collection's words, inside `access.acting_as`; the log has keyed hashes of them.

    Tags by words that are gone are gone at once; `care` sets those of new ones. Raises
    AccessDenied for who may not import there, ValueError as `tags.require_fit`.
    """
    require_fit(words)
    access.require(actor, purpose, Capability.INGEST, collection.pk)
    before = TagWord.objects.filter(collection=collection)
    before.exclude(word__in=words).delete()
    known = set(before.values_list("word", flat=True))
    TagWord.objects.bulk_create(
        [
            TagWord(collection=collection, word=word)
            for word in dict.fromkeys(words)
            if word not in known
        ],
        ignore_conflicts=True,  # somebody else named it in this moment
    )
    audit.record_in_transaction(
        Kind.COLLECTION_CHANGED,
        actor=actor,
        purpose=purpose,
        collection=collection.pk,
        change="tag words",
        words=sorted(audit.fingerprint(word) for word in words),
    )


def words_of(collection: Collection) -> list[str]:
    """A collection's words in order, inside `access.acting_as`."""
    words = TagWord.objects.filter(collection=collection)
    return list(words.order_by("word").values_list("word", flat=True))


def care() -> int:
    """Choose the thresholds that are due, of all collections and all encoders in use, and tag by
    them. As a worker's role; returns how many. An encoder that does not answer waits for the next
    round, and holds up no other."""
    chosen = 0
    for encoder in EncoderVersion.objects.filter(retired_at__isnull=True, reads=Reads.PICTURES):
        for collection_id in Collection.objects.values_list("pk", flat=True):
            words, rows = _due(collection_id, encoder)
            if not words:
                continue
            try:
                prompts, others = _encode([word.word for word in words], encoder)
            except NoTextTower:
                break
            except EncoderUnavailable:
                log.warning("encoder %s does not answer: it tags nothing yet", encoder.pk)
                break
            _choose(words, directions(prompts, others), others, encoder=encoder, rows=rows)
            chosen += len(words)
    return chosen


def _due(collection_id: int, encoder: EncoderVersion) -> tuple[list[TagWord], int]:
    """Words without a threshold, or with one from a much smaller collection; and its vectors."""
    with access.processing(collection_id):
        part = IndexPart.objects.filter(collection_id=collection_id, encoder=encoder).first()
        rows = 0 if part is None else part.rows
        if rows < LEAST_IMAGES:
            return [], rows
        settled = TagThreshold.objects.filter(
            collection_id=collection_id, encoder=encoder, rows__gt=rows // GROWN
        )
        due = TagWord.objects.filter(collection_id=collection_id)
        words = list(due.exclude(pk__in=settled.values("word")).order_by("pk"))
        # Parts are rows as well, and no images.
        whole = Embedding.objects.filter(
            collection_id=collection_id, encoder_id=encoder.pk, region=0
        )
        if words and len(whole.values_list("image_id")[:LEAST_IMAGES]) < LEAST_IMAGES:
            return [], rows
        return words, rows


def _encode(words: Sequence[str], encoder: EncoderVersion) -> tuple[np.ndarray, np.ndarray]:
    """N words' prompts, (N, prompts, dimensions), and words beside the point, (M, dimensions)."""
    asked = [queue.ToEncode(words=prompt.format(word)) for word in words for prompt in PROMPTS]
    encoded = queue.encode_query(asked, asker=confidence.NOBODY, encoder=encoder.name)
    if encoded.encoder != encoder.name:
        raise EncoderUnavailable("another encoder answered")
    prompts = np.stack(encoded.vectors).reshape(len(words), len(PROMPTS), -1)
    return prompts, np.stack(confidence.other_words(encoder.name))


def _choose(
    words: Sequence[TagWord],
    directions_of_words: np.ndarray,
    others: np.ndarray,
    *,
    encoder: EncoderVersion,
    rows: int,
) -> None:
    collection_id = words[0].collection_id
    with access.processing(collection_id):
        images = index.sample_vectors(collection_id, MOST_IMAGES, encoder=encoder)
        if len(images) < LEAST_IMAGES:
            return
        scores = least_scores(images, directions_of_words, others)
        index.set_tag_thresholds(
            [
                TagThreshold(
                    word=word,
                    collection_id=collection_id,
                    encoder=encoder,
                    direction=direction,
                    least_score=score,
                    rows=rows,
                )
                for word, direction, score in zip(words, directions_of_words, scores, strict=True)
            ],
            encoder=encoder,
        )


def directions(prompts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What N words' scores are the inner product with, (N, dimensions) float32.

    prompts: (N, prompts, dimensions); others: (M, dimensions), words beside the point.
    """
    return np.asarray(prompts.mean(axis=1) - others.mean(axis=0), np.float32)


def least_scores(
    images: np.ndarray, directions_of_words: np.ndarray, others: np.ndarray
) -> list[float]:
    """From where on an image bears each of N words, by unlabelled images: (images, dimensions)."""
    among_words = images @ (others - others.mean(axis=0)).T
    above_words = ABOVE_OTHER_WORDS * float(among_words.std(axis=1).mean())
    return [
        max(above_words, _above_images(images @ direction)) for direction in directions_of_words
    ]


def _above_images(scores: np.ndarray) -> float:
    """So far above the images that do not show a word that few of them come there.

    They are the many: the middle of the shortest half (Rousseeuw & Leroy 1988, Statistica
    Neerlandica 42) is theirs, and what lies below it is not mixed with those that do show it.
    """
    ordered = np.sort(scores)
    half = len(ordered) // 2
    start = int(np.argmin(ordered[half:] - ordered[: len(ordered) - half]))
    middle = (ordered[start] + ordered[start + half]) / 2
    below = ordered[ordered <= middle] - middle
    return float(middle + ABOVE_OTHER_IMAGES * np.sqrt(np.mean(below**2)))
