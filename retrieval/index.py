"""The only reader and writer of vectors.

Rows lie in one partition per collection, and every query names the permitted collections as
literals: the planner prunes by them, and row-level security stays the second lock. A filter
behind one shared index would lose rows and tell by its timing what is hidden.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from uuid import UUID

import numpy as np
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Exists, OuterRef, QuerySet
from pgvector import HalfVector
from psycopg import sql

from retrieval import access, audit, certificates
from retrieval.errors import EncoderUnavailable, ModelRefused, NotDeidentified
from retrieval.models import Collection, Embedding, EncoderVersion, Image, Kind, State

WHOLE_IMAGE = 0
EXACT_SCAN_ROWS = 2000
"""Up to so many permitted rows an exact scan is as fast as the HNSW index, and loses nothing."""
MAX_EF_SEARCH = 1000


class Metric(StrEnum):
    """How far two vectors are apart, as pgvector's operator. Smaller is nearer in each.

    INNER_PRODUCT is its negative. Rows have unit length, so all but MANHATTAN rank alike, whatever
    the query's length, and one index serves them; MANHATTAN reads every permitted row.
    """

    COSINE = "<=>"
    EUCLIDEAN = "<->"
    INNER_PRODUCT = "<#>"
    MANHATTAN = "<+>"


@dataclass(frozen=True)
class Filter:
    """What a found image must also be. What is not given asks nothing; days are inclusive.

    `media_types`, `modalities`, `subjects` (their ids): one of them. `tags`: all of them.
    """

    taken_from: date | None = None
    taken_until: date | None = None
    received_from: date | None = None
    received_until: date | None = None
    media_types: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    subjects: tuple[int, ...] = ()
    tags: tuple[str, ...] = field(default=(), repr=False)


EVERYTHING = Filter()


@dataclass(frozen=True)
class Neighbour:
    """`region`: which part of the image is nearest; WHOLE_IMAGE or a row of its regions."""

    image_id: UUID
    collection_id: int
    region: int
    distance: float


def register_encoder(
    *,
    name: str,
    digest: str,
    dimensions: int,
    licence: str,
    source: str = "",
    base: EncoderVersion | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
) -> EncoderVersion:
    """The row of an encoder; the first one ever goes live. Running twice leaves one row.

    `base`, `epsilon` and `delta` are those of one that was trained on images here: it goes live
    by `switch` only. Raises ModelRefused where the name is taken by other weights: their vectors
    do not compare.
    """
    learned_from_images = base is not None or epsilon is not None
    version, _ = EncoderVersion.objects.get_or_create(
        name=name,
        defaults={
            "digest": digest,
            "dimensions": dimensions,
            "licence": licence,
            "source": source,
            "base": base,
            "epsilon": epsilon,
            "delta": delta,
            "live": not learned_from_images
            and not EncoderVersion.objects.filter(live=True).exists(),
        },
    )
    privacy = (version.base_id, version.epsilon, version.delta)
    if (
        version.digest != digest
        or version.dimensions != dimensions
        or privacy != (base and base.pk, epsilon, delta)
    ):
        raise ModelRefused(f"encoder {version.pk} was registered with other weights")
    return version


def live_encoder() -> EncoderVersion:
    """The encoder whose vectors answer queries. Raises EncoderUnavailable before there is one."""
    version = EncoderVersion.objects.filter(live=True).first()
    if version is None:
        raise EncoderUnavailable("no encoder is live yet")
    return version


def switch(encoder: EncoderVersion) -> None:
    """Let `encoder` answer queries from now on, in one step; the one before can be switched back.

    As a worker's role. Raises ModelRefused where an indexed image has no vector of it yet: it
    would silently not be found; and where it was trained on images without a valid certificate.
    """
    encoder = EncoderVersion.objects.get(pk=encoder.pk)
    certificates.require_certified(encoder)
    if missing := count_without_vector(encoder):
        raise ModelRefused(f"{missing} indexed images have no vector of that encoder: fill it")
    with transaction.atomic():
        EncoderVersion.objects.filter(live=True).update(live=False)
        EncoderVersion.objects.filter(pk=encoder.pk).update(live=True)
        # Without an actor: a worker's role does not read the table of users.
        audit.record_in_transaction(
            Kind.ENCODER_CHANGED, actor=None, encoder=encoder.pk, change="went live"
        )


def count_without_vector(encoder: EncoderVersion) -> int:
    """How many indexed images, in all collections, `encoder` has not seen. As a worker's role."""
    missing = 0
    for collection_id in Collection.objects.values_list("pk", flat=True):
        with access.processing(collection_id):
            missing += without_vector(encoder, collection_id).count()
    return missing


def without_vector(encoder: EncoderVersion, collection_id: int) -> QuerySet[Image]:
    """The collection's indexed images that `encoder` has not seen, inside `access.processing`."""
    seen = Embedding.objects.filter(
        collection_id=collection_id, image_id=OuterRef("pk"), encoder_id=encoder.pk
    )
    return Image.objects.filter(~Exists(seen), state=State.INDEXED, collection_id=collection_id)


def store(image: Image, vector: np.ndarray, *, encoder: EncoderVersion) -> None:
    """Write an image's vector, inside `access.processing`; running twice leaves one row.

    vector: (dimensions,) float32, unit L2. Raises NotDeidentified for an image that is not:
    the guard sits with the only writer.
    """
    if image.state not in (State.DEIDENTIFIED, State.INDEXED):
        raise NotDeidentified(f"image {image.pk} is {image.state}")
    if vector.shape != (encoder.dimensions,):
        raise ValueError(f"encoder {encoder.pk} has {encoder.dimensions} dimensions")
    Embedding.objects.bulk_create(
        [
            Embedding(
                collection_id=image.collection_id,
                image_id=image.pk,
                encoder_id=encoder.pk,
                region=WHOLE_IMAGE,
                vector=HalfVector(vector),
            )
        ],
        update_conflicts=True,
        unique_fields=["collection_id", "image_id", "encoder_id", "region"],
        update_fields=["vector"],
    )


def vectors_among(
    image_ids: Iterable[UUID], *, within: Sequence[int], encoder: EncoderVersion
) -> dict[UUID, np.ndarray]:
    """Whole images' vectors, (dimensions,) float32, by image, inside `access.acting_as`.

    `within`: ids of the permitted collections. Those of other or unknown images are left out.
    """
    rows = Embedding.objects.filter(
        collection_id__in=list(within),
        image_id__in=list(image_ids),
        encoder_id=encoder.pk,
        region=WHOLE_IMAGE,
    )
    found = rows.values_list("image_id", "vector")
    return {image_id: np.asarray(vector, dtype=np.float32) for image_id, vector in found}


def vectors_of(collection_id: int, *, encoder: EncoderVersion) -> dict[UUID, np.ndarray]:
    """Every whole image's vector, (dimensions,) float32, by image, inside `access.processing`."""
    rows = Embedding.objects.filter(
        collection_id=collection_id, encoder_id=encoder.pk, region=WHOLE_IMAGE
    )
    found = rows.values_list("image_id", "vector")
    return {image_id: np.asarray(vector, dtype=np.float32) for image_id, vector in found}


def nearest(
    vector: np.ndarray,
    *,
    within: Sequence[int],
    encoder: EncoderVersion,
    limit: int,
    exact: bool = False,
    metric: Metric = Metric.COSINE,
    where: Filter = EVERYTHING,
) -> list[Neighbour]:
    """The `limit` images nearest to `vector`, nearest first, inside `access.acting_as`.

    `within`: ids of the permitted collections. Each image is there once, by its nearest region.
    Never fewer than `limit` where as many are permitted and pass `where`. `exact`: read every
    such row, which is what the index is measured against.
    """
    if not within or limit < 1:
        return []
    rows = _rows(within, encoder, where)
    exact = exact or metric is Metric.MANHATTAN
    with connection.cursor() as cursor:
        scans_all = _choose_path(cursor, rows, limit, exact=exact)
        wanted = limit
        while True:
            found = _scan(cursor, rows, vector=vector, encoder=encoder, metric=metric, limit=wanted)
            images = _nearest_regions(found)
            if len(images) >= limit or (scans_all and len(found) < wanted):
                return images[:limit]
            if len(found) < wanted:
                # The index gave up at its limit of rows looked at, with more behind the filter.
                scans_all = _choose_path(cursor, rows, limit, exact=True)
            else:
                wanted *= 4


def _rows(within: Sequence[int], encoder: EncoderVersion, where: Filter) -> sql.Composed:
    """FROM and WHERE of the permitted rows: the planner prunes by literals alone."""
    collections = sql.SQL(", ").join(sql.Literal(int(c)) for c in sorted(within))
    rows = sql.SQL(
        "FROM retrieval_embedding e"
        " WHERE e.collection_id IN ({collections}) AND e.encoder_id = {encoder}"
    ).format(collections=collections, encoder=sql.Literal(encoder.pk))
    if where == EVERYTHING:
        return rows
    return sql.SQL(
        "{rows} AND EXISTS (SELECT FROM retrieval_image i WHERE i.id = e.image_id"
        " AND i.collection_id IN ({collections}) AND {conditions})"
    ).format(rows=rows, collections=collections, conditions=_conditions(where))


def _conditions(where: Filter) -> sql.Composed:
    asked: list[tuple[str, object]] = [
        ("i.taken_on >= {}", where.taken_from),
        ("i.taken_on <= {}", where.taken_until),
        ("i.received_at >= {}::date", where.received_from),
        ("i.received_at < {}::date + 1", where.received_until),
        ("i.media_type = ANY ({}::text[])", list(where.media_types)),
        ("i.modality = ANY ({}::text[])", list(where.modalities)),
        ("i.subject_id = ANY ({}::bigint[])", list(where.subjects)),
        ("i.tags @> {}::varchar[]", list(where.tags)),
    ]
    return sql.SQL(" AND ").join(
        sql.SQL(condition).format(sql.Literal(value)) for condition, value in asked if value
    )


def _scan(
    cursor: CursorWrapper,
    rows: sql.Composed,
    *,
    vector: np.ndarray,
    encoder: EncoderVersion,
    metric: Metric,
    limit: int,
) -> list[Neighbour]:
    def distance(operator: str) -> sql.Composed:
        return sql.SQL("e.vector::halfvec({d}) {operator} {v}::halfvec({d})").format(
            d=sql.Literal(encoder.dimensions),
            operator=sql.SQL(operator),
            v=sql.Literal(HalfVector(vector).to_text()),
        )

    by = Metric.MANHATTAN if metric is Metric.MANHATTAN else Metric.COSINE
    cursor.execute(
        sql.SQL(
            "SELECT e.image_id, e.collection_id, e.region, {distance} {rows}"
            " ORDER BY {order} LIMIT {limit}"
        ).format(distance=distance(metric), rows=rows, order=distance(by), limit=sql.Literal(limit))
    )
    return [Neighbour(*row) for row in cursor.fetchall()]


def _nearest_regions(found: Sequence[Neighbour]) -> list[Neighbour]:
    first: dict[UUID, Neighbour] = {}
    for neighbour in found:
        first.setdefault(neighbour.image_id, neighbour)
    return list(first.values())


def _choose_path(cursor: CursorWrapper, rows: sql.Composed, limit: int, *, exact: bool) -> bool:
    """Plan this transaction's next scans, and return whether they read all permitted rows.

    The choice depends on permitted rows alone.
    """
    cursor.execute(
        sql.SQL("SELECT count(*) FROM (SELECT 1 {rows} LIMIT {n}) AS permitted").format(
            rows=rows, n=sql.Literal(EXACT_SCAN_ROWS + 1)
        )
    )
    (permitted,) = cursor.fetchone()
    if exact or permitted <= EXACT_SCAN_ROWS:
        cursor.execute("SET LOCAL enable_indexscan = off")
        return True
    cursor.execute("SET LOCAL enable_indexscan = on")
    # Twice the wanted rows keeps recall; the iterative scan goes on where a page of dead rows
    # or a limit beyond ef_search would leave fewer than are there.
    cursor.execute(f"SET LOCAL hnsw.ef_search = {min(max(100, 2 * limit), MAX_EF_SEARCH)}")
    cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
    return False
