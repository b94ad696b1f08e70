"""The way of a query: authorise, encode, find the nearest, record, answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from retrieval import access, audit, fusion, index, queue, storage
from retrieval.errors import AccessDenied, EncoderUnavailable
from retrieval.models import Collection, EncoderVersion, Image, Kind, Purpose, State, User
from retrieval.models.grant import Capability
from retrieval.models.image import TimeRange

MAX_LIMIT = 200
SCORE_DIGITS = 3
"""Scores are rounded: finer ones would let a caller triangulate a vector."""


@dataclass(frozen=True)
class Query:
    """What is looked for: any mix of words, an example's bytes and a stored image.

    `without` are words for what is not wanted. `collections`: ids to search in, or all that may
    be searched.
    """

    words: str = ""
    image: bytes = b""
    like: UUID | None = None
    without: str = ""
    collections: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not (self.words.strip() or self.image or self.like):
            raise ValueError("a query needs words, an image, or both")


@dataclass(frozen=True)
class Hit:
    """`score` is the cosine similarity, rounded; `source` only where the actor may see names.

    `subject`: the id of whom it is of, where known. For the log. `time`: of a video's frame.
    """

    image_id: UUID
    collection: str
    score: float
    source: str | None
    subject: int | None = None
    time: TimeRange | None = None


@dataclass(frozen=True)
class Answer:
    hits: list[Hit]
    audit_number: int


def search(query: Query, *, actor: User, purpose: Purpose, limit: int = 20) -> Answer:
    """Return what `actor` may see that is nearest to `query`, nearest first.

    Served, denied or failed, the audit row is committed before this returns or raises. Raises
    AccessDenied, EncoderUnavailable (transient), Rejected or NeedsReview (the query image cannot
    be used), AuditUnavailable.
    """
    told = _what_the_log_tells(query)
    permitted = access.collections_where(actor, purpose, Capability.SEARCH)
    if query.collections is not None:
        permitted = [c for c in permitted if c.pk in query.collections]
    if not permitted:
        audit.record(Kind.SEARCH_DENIED, actor=actor, purpose=purpose, **told)
        raise AccessDenied(f"user {actor.pk} has no collection to search")
    try:
        hits = _nearest(query, permitted, actor, purpose, min(max(limit, 0), MAX_LIMIT))
    except Exception as error:
        failure = type(error).__name__
        audit.record(Kind.SEARCH_FAILED, actor=actor, purpose=purpose, error=failure, **told)
        raise
    number = audit.record(
        Kind.SEARCH_SERVED,
        actor=actor,
        purpose=purpose,
        collections=[str(c.pk) for c in permitted],
        images=[hit.image_id for hit in hits],
        subjects=sorted({hit.subject for hit in hits if hit.subject is not None}),
        **told,
    )
    return Answer(hits, number)


def _what_the_log_tells(query: Query) -> dict[str, str | bool | UUID | None]:
    """The query without its content: keyed hashes, so that equal queries can be seen to be."""
    return {
        "query": audit.fingerprint(f"{query.words}\n{query.without}") if query.words else None,
        "example": bool(query.image),
        "like": query.like,
    }


def _nearest(
    query: Query, permitted: list[Collection], actor: User, purpose: Purpose, limit: int
) -> list[Hit]:
    encoder = index.live_encoder()
    wanted, unwanted = _encode(query, encoder)
    with access.acting_as(actor, purpose):
        if query.like is not None:
            wanted.append(_vector_of_stored(query.like, permitted, encoder))
        neighbours = index.nearest(
            fusion.combine(wanted, unwanted),
            within=[c.pk for c in permitted],
            encoder=encoder,
            limit=limit,
        )
        images = Image.objects.filter(state=State.INDEXED).in_bulk([n.image_id for n in neighbours])
    names = {c.pk: c.name for c in permitted}
    named = access.collections_where(actor, purpose, Capability.SEE_SOURCE_NAMES)
    may_see_source = {c.pk for c in named}
    return [
        Hit(
            image_id=n.image_id,
            collection=names[n.collection_id],
            score=round(1.0 - n.distance, SCORE_DIGITS),
            source=storage.source_name(images[n.image_id])
            if n.collection_id in may_see_source
            else None,
            subject=images[n.image_id].subject_id,
            time=images[n.image_id].time,
        )
        for n in neighbours
        if n.image_id in images
    ]


def _encode(query: Query, encoder: EncoderVersion) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The wanted and the unwanted vectors of what the query brings along, in `encoder`'s space."""
    if not (query.words.strip() or query.image or query.without.strip()):
        return [], []
    vectors = queue.encode_query(words=query.words, without=query.without, image=query.image)
    if vectors.encoder != encoder.name:
        # The models were switched between the two looks; the next try sees the new one.
        raise EncoderUnavailable("the live encoder changed while the query was encoded")
    wanted = [v for v in (vectors.words, vectors.image) if v is not None]
    return wanted, [] if vectors.without is None else [vectors.without]


def _vector_of_stored(
    image_id: UUID, permitted: list[Collection], encoder: EncoderVersion
) -> np.ndarray:
    image = Image.objects.filter(pk=image_id, collection__in=[c.pk for c in permitted]).first()
    vector = None if image is None else index.vector_of(image, encoder=encoder)
    if vector is None:
        raise AccessDenied("no such image")
    return vector
