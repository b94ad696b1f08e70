"""The way of a query: authorise, encode, find the nearest, record, answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import sqrt
from types import MappingProxyType
from typing import Final, Literal
from uuid import UUID

import numpy as np
from django.db import connection
from pgvector.django import HammingDistance

from retrieval import access, audit, confidence, fusion, index, kept_queries, probes, queue, storage
from retrieval.errors import AccessDenied, EncoderUnavailable
from retrieval.groups import DUPLICATE_BITS, Scored, one_of_each
from retrieval.index import Metric
from retrieval.models import Collection, EncoderVersion, Image, Kind, Purpose, Reads, State, User
from retrieval.models.grant import Capability
from retrieval.models.image import Region, TimeRange
from retrieval.query import Fusion, LookIn, Part, Query

MAX_LIMIT = 200
POOL = 5
"""So many times the wanted images are looked at to choose from: by rank, variety or group."""
MAX_POOL = 20_000
"""A film or a long study may be nearer with thousands of images than the next group is."""
DUPLICATE_SIMILARITY = 0.93
SCORE_DIGITS = 3
"""Scores are rounded: finer ones would let a caller triangulate a vector."""
LEAST_SAID: Final = 0.35
"""Cosine from which a report says what is asked for, and is fused with pictures. In MiniLM's space
nine of ten captions of one photograph are so near, and one of 25 of two (Flickr8k's train)."""

FoundIn = Literal["picture", "report"]


@dataclass(frozen=True)
class Hit:
    """`score`: see `score_of`, rounded; `source` only where the actor may see names.

    `subject`: the id of whom it is of, where known. For the log. `region`: what part of the image
    it was found by, in pixels of the image, which has `size`: width and height. `time`: of a
    video's frame. `found_in`: the picture, or the report that came with it.
    """

    image_id: UUID
    collection: str
    score: float
    source: str | None
    subject: int | None = None
    region: Region | None = None
    size: tuple[int, int] | None = None
    time: TimeRange | None = None
    found_in: FoundIn = "picture"


@dataclass(frozen=True)
class Answer:
    """`confident`: whether the nearest stands out, or None where that cannot be told."""

    hits: list[Hit]
    audit_number: int
    confident: bool | None = None


Found = tuple[list[Hit], bool | None]


@dataclass(frozen=True)
class Reader:
    """Who asks, what for, and what they may do in each collection that is searched for them."""

    actor: User
    purpose: Purpose
    permitted: dict[Collection, set[Capability]]

    @property
    def within(self) -> list[int]:
        return [collection.pk for collection in self.permitted]

    @property
    def within_reports(self) -> list[int]:
        return [collection.pk for collection in self.permitted if collection.has_reports]


class Live:
    """The encoders that one search keeps to; that of reports from when it is first needed."""

    def __init__(self) -> None:
        self.pictures = index.live_encoder()

    @cached_property
    def reports(self) -> EncoderVersion | None:
        return index.live_report_encoder()


@dataclass(frozen=True)
class Ask:
    """One ranking: rows of `encoder` in the collections `within`, by `vector`."""

    vector: np.ndarray
    weight: float
    encoder: EncoderVersion
    within: Sequence[int]


@dataclass(frozen=True)
class Ranked:
    """`best`: images with their scores, best first. `by_report`: those of them that were found by
    their reports. `by_looks`: how pictures rank by the first vector of theirs."""

    best: list[Scored]
    by_report: set[UUID]
    by_looks: list[index.Neighbour]


def search(query: Query, *, actor: User, purpose: Purpose, limit: int = 20) -> Answer:
    """Return what `actor` may see that is nearest to `query`, nearest first.

    Served, denied or failed, the audit row is committed before this returns or raises. Raises
    AccessDenied, EncoderUnavailable (transient), Rejected or NeedsReview (the query image cannot
    be used), AuditUnavailable.
    """
    limit = min(max(limit, 0), MAX_LIMIT)
    return _recorded(partial(_nearest, query, limit), actor, purpose, query)


def near_duplicates(image_id: UUID, *, actor: User, purpose: Purpose, limit: int = 20) -> Answer:
    """What `actor` may see that shows the same as a stored image, nearest first, without itself.

    By perceptual hash or by vector. Recorded like a search, and raises as one.
    """
    find = partial(_alike, image_id, min(max(limit, 0), MAX_LIMIT))
    return _recorded(find, actor, purpose, Query(like=image_id), duplicates=True)


def _recorded(
    find: Callable[[Reader, Live], Found],
    actor: User,
    purpose: Purpose,
    query: Query,
    **more: audit.type_of_detail,
) -> Answer:
    """Authorise, find, and commit what was found or why not before anything is told.

    `more`: what else the log tells of the query.
    """
    told = _what_the_log_tells(query) | more
    permitted = {
        collection: may
        for collection, may in access.capabilities_in(actor, purpose).items()
        if Capability.SEARCH in may
        and (query.collections is None or collection.pk in query.collections)
    }
    if not permitted:
        audit.record(Kind.SEARCH_DENIED, actor=actor, purpose=purpose, **told)
        raise AccessDenied(f"user {actor.pk} has no collection to search")
    reader = Reader(actor, purpose, permitted)
    told |= {"looked_in": _looked_in(query, reader)}
    try:
        hits, confident = _by_live_encoders(partial(find, reader))
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
    parts = query.all_parts()
    kept_queries.keep(
        number,
        words="\n".join(f"{part.weight:g} {part.words}" for part in parts if part.words),
        images=[part.image for part in parts if part.image],
        searched=list(permitted),
        actor=actor,
        purpose=purpose,
    )
    return Answer(hits, number, confident)


def _by_live_encoders(find: Callable[[Live], Found]) -> Found:
    """What `find` finds in the live encoders' spaces; asked once more where one was switched.

    One search keeps to its spaces: to those of the encoders it began with, which holds as long as
    these are not retired.
    """
    live = Live()
    try:
        return find(live)
    except EncoderUnavailable:
        now = Live()
        if (now.pictures, now.reports) == (live.pictures, live.reports):
            raise
    return find(now)


def _what_the_log_tells(query: Query) -> dict[str, audit.type_of_detail]:
    """The query without its content: keyed hashes, so that equal queries can be seen to be."""
    parts = query.all_parts()
    words = "\n".join(f"{part.weight} {part.words}" for part in parts if part.words)
    return {
        "query": audit.fingerprint(words) if words else None,
        "examples": sum(bool(part.image) for part in parts),
        "like": sorted(query.stored()),
        "filters": sorted(name for name, value in vars(query.where).items() if value),
    }


def _looked_in(query: Query, reader: Reader) -> list[str]:
    """What words are held against: reports only where there may be some."""
    in_pictures, in_reports = query.look_in is not LookIn.REPORTS, False
    if query.look_in is not LookIn.PICTURES:
        in_reports = bool(reader.within_reports) and query.of_words() is not None
    return [*(["pictures"] if in_pictures else []), *(["reports"] if in_reports else [])]


def _nearest(query: Query, limit: int, reader: Reader, live: Live) -> Found:
    encoder = live.pictures
    stored: dict[UUID, Image] = {}
    known: dict[UUID, np.ndarray] = {}
    if query.stored():
        with index.deadline(), access.reading_as(reader.actor, reader.purpose):
            stored, known = _stored(query.stored(), reader.within, encoder)
    asks = _asks(query, stored, known, reader, live)
    for ask in asks:
        probes.watch(ask.vector, actor=reader.actor, purpose=reader.purpose)
    is_words = not query.liked and all(part.words for part in query.all_parts())
    by_looks = [ask.vector for ask in asks if ask.encoder == encoder]
    tells_confidence = len(by_looks) == 1 and query.metric is not Metric.MANHATTAN
    other_words = confidence.other_words(encoder.name) if is_words and tells_confidence else ()
    within = reader.within
    with index.deadline(), access.reading_as(reader.actor, reader.purpose):
        ranked, images = _candidates(query, asks, limit)
        neighbours = ranked.best
        looks_nearest = next((n.image_id for n in ranked.by_looks if n.image_id in images), None)
        # Of a report it cannot be told: the nearest may be another than by its looks.
        confident = (
            confidence.stands_out(
                neighbours[0][0],
                by_looks[0],
                other_words,
                within=within,
                encoder=encoder,
            )
            if tells_confidence and neighbours and neighbours[0][0].image_id == looks_nearest
            else None
        )
        if query.diversity:
            neighbours = _diversified(query, neighbours, within, encoder, limit)
            index.require_kept(encoder)
    found = neighbours[:limit]
    scored = [(n.image_id, score) for n, score in found]
    boxes = {n.image_id: n.box for n, _ in found}
    return _hits(scored, images, reader, boxes=boxes, by_report=ranked.by_report), confident


def _asks(
    query: Query,
    stored: dict[UUID, Image],
    known: dict[UUID, np.ndarray],
    reader: Reader,
    live: Live,
) -> list[Ask]:
    """What is ranked by: pictures in the space of their encoder, reports in that of theirs."""
    asks = []
    encoder = live.pictures
    looked_in = _looked_in(query, reader)
    if "pictures" in looked_in:
        encoded = _encode(query, stored, known, reader.actor, encoder)
        vectors = _query_vectors(query, encoded, known)
        asks += [Ask(vector, weight, encoder, reader.within) for vector, weight in vectors]
    words = query.of_words()
    if "reports" in looked_in and words and (reports := live.reports):
        vectors = _query_vectors(words, _encode(words, {}, {}, reader.actor, reports), {})
        asks += [Ask(vector, weight, reports, reader.within_reports) for vector, weight in vectors]
    return asks


def _hits(
    scored: list[tuple[UUID, float]],
    images: dict[UUID, Image],
    reader: Reader,
    *,
    boxes: Mapping[UUID, Region | None] = MappingProxyType({}),
    by_report: Set[UUID] = frozenset(),
) -> list[Hit]:
    permitted = {
        collection.pk: (collection.name, may) for collection, may in reader.permitted.items()
    }
    hits = []
    for image_id, score in scored:
        image = images[image_id]
        collection, may = permitted[image.collection_id]
        names = Capability.SEE_SOURCE_NAMES in may
        hits.append(
            Hit(
                image_id=image_id,
                collection=collection,
                score=round(score, SCORE_DIGITS),
                source=storage.source_name(image) if names else None,
                subject=image.subject_id,
                region=boxes.get(image_id),
                size=(image.width, image.height) if image.width and image.height else None,
                time=image.time,
                found_in="report" if image_id in by_report else "picture",
            )
        )
    return hits


def _indexed(image_ids: Iterable[UUID]) -> dict[UUID, Image]:
    """Those of the images that can be shown, with what an answer tells of them.

    Inside `access.reading_as`.
    """
    with connection.cursor() as cursor:
        cursor.execute(_INDEXED, [list(image_ids), State.INDEXED])
        images = [Image.from_db(None, _SHOWN, row) for row in cursor.fetchall()]
    return {image.pk: image for image in images}


_SHOWN: Final = (
    *("id", "collection_id", "subject_id", "wrapped_key", "sealed_name", "width", "height"),
    *("study", "perceptual_hash", "video_id", "starts_at_s", "ends_at_s"),
)
"""In the model's order."""

_INDEXED: Final = f"""
    SELECT found.* FROM unnest(%s::uuid[]) AS wanted (image_id), LATERAL (
        SELECT {", ".join(_SHOWN)} FROM retrieval_image WHERE id = image_id AND state = %s OFFSET 0
    ) AS found
"""  # noqa: S608
"""One by one: else every image of the permitted collections is read, to leave most of them out."""


def _stored(
    image_ids: set[UUID], within: Sequence[int], encoder: EncoderVersion
) -> tuple[dict[UUID, Image], dict[UUID, np.ndarray]]:
    """The images a query names, and their vectors. Raises AccessDenied unless all may be searched:
    foreign and missing ones are not told apart."""
    found = _indexed(image_ids)
    images = {image_id: image for image_id, image in found.items() if image.collection_id in within}
    vectors = index.vectors_among(image_ids, within=within, encoder=encoder)
    index.require_kept(encoder)
    if not images.keys() & vectors.keys() >= image_ids:
        raise AccessDenied("no such image")
    return images, vectors


def _encode(
    query: Query,
    stored: dict[UUID, Image],
    known: dict[UUID, np.ndarray],
    actor: User,
    encoder: EncoderVersion,
) -> list[fusion.Weighted]:
    """Each part's vector in `encoder`'s space, with its weight."""
    parts = query.all_parts()
    unknown = [part for part in parts if part.like is None or part.region is not None]
    rows: Iterator[np.ndarray] = iter(())
    if unknown:
        encoded = queue.encode_query(
            [_to_encode(part, stored) for part in unknown], asker=actor.pk, encoder=encoder.name
        )
        if encoded.encoder != encoder.name:
            raise EncoderUnavailable("another encoder answered than was asked")
        rows = iter(encoded.vectors)
    return [
        (known[part.like] if part.like and part.region is None else next(rows), part.weight)
        for part in parts
    ]


def _to_encode(part: Part, stored: dict[UUID, Image]) -> queue.ToEncode:
    where = None if part.like is None else (stored[part.like].collection_id, part.like)
    return queue.ToEncode(part.words, part.image, where, part.region)


def _query_vectors(
    query: Query, parts: list[fusion.Weighted], known: dict[UUID, np.ndarray]
) -> list[fusion.Weighted]:
    """What is ranked by, with weights: one vector, or one for each wanted part."""
    liked, disliked = ([known[i] for i in ids] for ids in (query.liked, query.disliked))
    if query.fusion is Fusion.SPACE:
        return [(fusion.combine(parts, liked=liked, disliked=disliked), 1.0)]
    unwanted = [(vector, weight) for vector, weight in parts if weight < 0]
    wanted = [(vector, weight) for vector, weight in parts if weight > 0]
    if liked:
        wanted.append((fusion.combine([], liked=liked), fusion.LIKED_WEIGHT))
    return [
        (fusion.combine([(vector, 1.0), *unwanted], disliked=disliked), weight)
        for vector, weight in wanted
    ]


def _candidates(query: Query, asks: Sequence[Ask], limit: int) -> tuple[Ranked, dict[UUID, Image]]:
    """The best images, one of each group where it is asked for groups."""
    if not asks:
        return Ranked([], set(), []), {}
    chooses = query.diversity or query.group or len(asks) > 1
    pool = limit * POOL if chooses else limit
    while True:
        ranked = _ranked(query, asks, pool)
        images = _indexed(n.image_id for n, _ in ranked.best)
        ranked_images = [(n, score) for n, score in ranked.best if n.image_id in images]
        kept = ranked_images
        if query.group:
            kept = one_of_each(ranked_images, images, query.group, most=limit * POOL)
        if len(kept) >= limit or len(ranked.best) < pool or pool >= MAX_POOL or not query.group:
            return replace(ranked, best=kept), images
        pool = min(pool * POOL, MAX_POOL)


def _ranked(query: Query, asks: Sequence[Ask], pool: int) -> Ranked:
    """By the only ranking, or by all of them fused. Beside pictures, reports of which none says
    what is asked for are no ranking: the answer is as if there were none."""
    rankings = [
        (ask, ranking)
        for ask in asks
        if (ranking := _ranking(query, ask, pool)) or not _is_beside_pictures(query, ask)
    ]
    # By which image is found, with its rank there: of its picture or, where higher, of its report.
    found: dict[UUID, tuple[int, index.Neighbour, Ask]] = {}
    for ask, ranking in rankings:
        for rank, neighbour in enumerate(ranking):
            before = found.get(neighbour.image_id)
            if before is None or (rank < before[0] and ask.encoder != before[2].encoder):
                found[neighbour.image_id] = (rank, neighbour, ask)
    by_report = {i for i, (_, _, ask) in found.items() if ask.encoder.reads == Reads.REPORTS}
    first, nearest = rankings[0]
    if len(rankings) == 1:
        dimensions = first.encoder.dimensions
        best = [(n, score_of(n.distance, query.metric, dimensions)) for n in nearest]
    else:
        ids = [([n.image_id for n in ranking], ask.weight) for ask, ranking in rankings]
        best = [(found[image_id][1], score) for image_id, score in fusion.fuse_ranks(ids)]
    return Ranked(best, by_report, [] if first.encoder.reads == Reads.REPORTS else nearest)


def _is_beside_pictures(query: Query, ask: Ask) -> bool:
    return ask.encoder.reads == Reads.REPORTS and query.look_in is not LookIn.REPORTS


def _ranking(query: Query, ask: Ask, pool: int) -> list[index.Neighbour]:
    """The nearest; beside pictures, only reports that say what is asked for, by cosine always."""
    is_beside = _is_beside_pictures(query, ask)
    ranking = index.nearest(
        ask.vector,
        within=ask.within,
        encoder=ask.encoder,
        limit=pool,
        metric=Metric.COSINE if is_beside else query.metric,
        where=query.where,
    )
    if not is_beside:
        return ranking
    return [n for n in ranking if 1.0 - n.distance >= LEAST_SAID]


def score_of(distance: float, metric: Metric, dimensions: int) -> float:
    """From a distance between unit vectors to a score, 1 for equal ones.

    The cosine similarity, -1 to 1; by Manhattan distance a share of the greatest there is, 0 to 1.
    """
    match metric:
        case Metric.COSINE:
            return 1.0 - distance
        case Metric.EUCLIDEAN:
            return 1.0 - distance * distance / 2
        case Metric.INNER_PRODUCT:
            return -distance
        case Metric.MANHATTAN:
            return 1.0 - distance / (2 * sqrt(dimensions))


def _diversified(
    query: Query,
    neighbours: list[Scored],
    within: Sequence[int],
    encoder: EncoderVersion,
    limit: int,
) -> list[Scored]:
    vectors = index.vectors_among(
        {n.image_id for n, _ in neighbours}, within=within, encoder=encoder
    )
    known = [(n, score) for n, score in neighbours if n.image_id in vectors]
    if not known:
        return []
    places = fusion.diversify(
        np.array([score for _, score in known]),
        np.stack([vectors[n.image_id] for n, _ in known]),
        diversity=query.diversity,
        limit=limit,
    )
    return [known[place] for place in places]


def _alike(image_id: UUID, limit: int, reader: Reader, live: Live) -> Found:
    """The hash outlives scaling and compression; the vector changes of colour and cut as well.

    Every permitted hash is read: an index over the hashes of all collections would answer sooner
    or later by what is hidden.
    """
    within, encoder = reader.within, live.pictures
    shown = Image.objects.filter(collection__in=within, state=State.INDEXED)
    with index.deadline(), access.reading_as(reader.actor, reader.purpose):
        stored, known = _stored({image_id}, within, encoder)
        hashed = stored[image_id].perceptual_hash
        by_hash = set(
            shown.alias(bits=HammingDistance("perceptual_hash", hashed))
            .filter(bits__lte=DUPLICATE_BITS)
            .values_list("pk", flat=True)
            if hashed
            else ()
        )
        near = index.nearest(known[image_id], within=within, encoder=encoder, limit=MAX_LIMIT)
        by_vector = {n.image_id for n in near if 1.0 - n.distance >= DUPLICATE_SIMILARITY}
        images = _indexed((by_vector | by_hash) - {image_id})
        vectors = index.vectors_among(images.keys(), within=within, encoder=encoder)
        index.require_kept(encoder)
    scores = {pk: float(vector @ known[image_id]) for pk, vector in vectors.items()}
    # By vector also came what shows it in one of its parts only.
    copies = [pk for pk in scores if pk in by_hash or scores[pk] >= DUPLICATE_SIMILARITY]
    nearest = sorted(copies, key=lambda pk: -scores[pk])[:limit]
    return _hits([(pk, scores[pk]) for pk in nearest], images, reader), bool(nearest)
