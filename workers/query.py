"""A query on its way in: its pictures are covered like any other, then cut out, then encoded."""

import logging
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import numpy as np

from retrieval import access, index
from retrieval.errors import CloisterError, EncoderUnavailable, NeedsReview, Reason, Rejected
from retrieval.models import EncoderVersion, PrivacyProfile, State
from retrieval.models import Image as StoredImage
from retrieval.models.image import Region
from retrieval.queue import QueryVectors, ToEncode, Waiting
from workers.decode.limits import Limits
from workers.encode.encoder import Encoder, Pixels
from workers.previews import pixels_of
from workers.remembered import RememberedWords
from workers.stages import deidentified, embed, encoder_of

log = logging.getLogger("cloister.query")

_remembered: Final = RememberedWords()


def encode(waiting: Sequence[Waiting]) -> list[QueryVectors | CloisterError]:
    """One answer for each query, in the order they came; the failure of one is no other's."""
    answers: dict[str, QueryVectors | CloisterError] = {}
    for name in {query.encoder for query in waiting}:
        together = [query for query in waiting if query.encoder == name]
        found = _encode_together(name, together)
        answers |= {query.reply_to: each for query, each in zip(together, found, strict=True)}
    return [answers[query.reply_to] for query in waiting]


def _encode_together(
    encoder_name: str, waiting: Sequence[Waiting]
) -> list[QueryVectors | CloisterError]:
    """In one encoder's space, the live one's where none is named; the words of all in one batch."""
    try:
        version = index.encoder_named(encoder_name) if encoder_name else index.live_encoder()
        encoder = encoder_of(version)
    except CloisterError as error:
        return [error] * len(waiting)
    try:
        _remembered.encode(
            encoder,
            [(query.asker, part.words) for query in waiting for part in query.parts if part.words],
        )
    except CloisterError:
        log.info("words were not encoded together; each query says why for itself")
    return [_answer(query, version, encoder) for query in waiting]


def _answer(
    query: Waiting, version: EncoderVersion, encoder: Encoder
) -> QueryVectors | CloisterError:
    try:
        vectors = tuple(_vector(part, query.asker, encoder) for part in query.parts)
    except CloisterError as error:
        return error
    except Exception:
        log.exception("a query could not be encoded")
        return EncoderUnavailable("the encoder failed")
    return QueryVectors(version.name, vectors)


def _vector(part: ToEncode, asker: int, encoder: Encoder) -> np.ndarray:
    if part.words:
        (vector,) = _remembered.encode(encoder, [(asker, part.words)])
        return vector
    if part.stored is not None:
        return embed(encoder, _stored_pixels(*part.stored, part.region))
    covered = deidentified(part.image, PrivacyProfile())
    if covered.reason is not None:
        raise NeedsReview(covered.reason)
    return embed(encoder, cut_out(covered.pixels, part.region))


def _stored_pixels(collection_id: int, image_id: UUID, region: Region | None) -> Pixels:
    """Of the de-identified preview, never of the original; the region is in the image's pixels."""
    with access.processing(collection_id):
        image = StoredImage.objects.filter(
            pk=image_id, collection_id=collection_id, state=State.INDEXED
        ).first()
    if image is None:
        raise EncoderUnavailable("a stored image of the query is no longer there")
    pixels = pixels_of(image)
    return cut_out(pixels, region, scale=pixels.shape[1] / (image.width or pixels.shape[1]))


def cut_out(pixels: Pixels, region: Region | None, *, scale: float = 1.0) -> Pixels:
    """What lies in `region`, scaled by `scale`, of (H, W, 3) pixels that are de-identified.

    Raises Rejected TOO_SMALL where less of it lies in the picture than a file must have.
    """
    if region is None:
        return pixels
    left, top = round(region.x * scale), round(region.y * scale)
    right, bottom = round((region.x + region.w) * scale), round((region.y + region.h) * scale)
    cut = pixels[top:bottom, left:right]
    if min(cut.shape[:2]) < Limits().min_side:
        raise Rejected(Reason.TOO_SMALL)
    return np.ascontiguousarray(cut)
