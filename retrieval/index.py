"""The only reader and writer of vectors.

Rows lie in one partition per collection, and every query names the permitted collections as
literals: the planner prunes by them, and row-level security stays the second lock. A filter
behind one shared index would lose rows and tell by its timing what is hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Neighbour:
    image_id: UUID
    collection_id: int
    distance_cosine: float


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


def vector_of(image: Image, *, encoder: EncoderVersion) -> np.ndarray | None:
    """A stored image's vector, (dimensions,) float32, inside `access.acting_as`."""
    row = Embedding.objects.filter(
        collection_id=image.collection_id,
        image_id=image.pk,
        encoder_id=encoder.pk,
        region=WHOLE_IMAGE,
    ).first()
    return None if row is None else np.asarray(row.vector, dtype=np.float32)


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
) -> list[Neighbour]:
    """The `limit` images nearest to `vector` by cosine, nearest first, inside `access.acting_as`.

    `within`: ids of the permitted collections. Never fewer than `limit` where there are as many.
    `exact`: read every permitted row, which is what the index is measured against.
    """
    if not within or limit < 1:
        return []
    rows = sql.SQL(
        "FROM retrieval_embedding WHERE collection_id IN ({collections}) AND encoder_id = {encoder}"
    ).format(
        collections=sql.SQL(", ").join(sql.Literal(int(c)) for c in sorted(within)),
        encoder=sql.Literal(encoder.pk),
    )
    distance = sql.SQL("vector::halfvec({d}) <=> {v}::halfvec({d})").format(
        d=sql.Literal(encoder.dimensions), v=sql.Literal(HalfVector(vector).to_text())
    )
    query = sql.SQL(
        "SELECT image_id, collection_id, {distance} AS distance {rows} ORDER BY distance LIMIT {k}"
    ).format(distance=distance, rows=rows, k=sql.Literal(limit))
    with connection.cursor() as cursor:
        _choose_path(cursor, rows, limit, exact=exact)
        cursor.execute(query)
        return [Neighbour(*row) for row in cursor.fetchall()]


def _choose_path(cursor: CursorWrapper, rows: sql.Composed, limit: int, *, exact: bool) -> None:
    """Plan this transaction's next scan. The choice depends on permitted rows alone."""
    cursor.execute(
        sql.SQL("SELECT count(*) FROM (SELECT 1 {rows} LIMIT {n}) AS permitted").format(
            rows=rows, n=sql.Literal(EXACT_SCAN_ROWS + 1)
        )
    )
    (permitted,) = cursor.fetchone()
    if exact or permitted <= EXACT_SCAN_ROWS:
        cursor.execute("SET LOCAL enable_indexscan = off")
        return
    cursor.execute("SET LOCAL enable_indexscan = on")
    # Twice the wanted rows keeps recall; the iterative scan goes on where a page of dead rows
    # or a limit beyond ef_search would leave fewer than are there.
    cursor.execute(f"SET LOCAL hnsw.ef_search = {min(max(100, 2 * limit), MAX_EF_SEARCH)}")
    cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
