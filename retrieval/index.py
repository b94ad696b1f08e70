"""The only reader and writer of vectors.

Rows lie in one partition per collection, and every query names the permitted collections as
literals: the planner prunes by them, and row-level security stays the second lock. A filter
behind one shared index would lose rows and tell by its timing what is hidden.
"""

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache
from uuid import UUID, uuid4

import numpy as np
import psycopg
from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Exists, Max, OuterRef, QuerySet
from django.utils import timezone
from pgvector import HalfVector
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.errors import QueryCanceled
from psycopg.pq import Format

from retrieval import access, audit, certificates
from retrieval.errors import EncoderUnavailable, ModelRefused, NotDeidentified, SearchTooSlow
from retrieval.models import (
    Collection,
    Embedding,
    EncoderVersion,
    Image,
    IndexPart,
    Kind,
    State,
)
from retrieval.models.image import Region

MAX_DIMENSIONS = 4000
"""Of a halfvec that an HNSW index takes."""
WHOLE_IMAGE = 0
EXACT_SCAN_ROWS = 2000
"""Up to so many permitted rows an exact scan is as fast as the HNSW index, and loses nothing."""
FEW_PARTITIONS = 10
"""So many partitions are each searched in full: about 10 ms. More are glanced at first."""
FULL_EF_SEARCH = 100
"""What a search of one partition looks at, unless its sample showed that it takes more."""
GLANCE_EF_SEARCH = 20
"""What a glance at one of many partitions looks at. Measured: docs/benchmarks.md."""
MAX_EF_SEARCH = 1000
BACKGROUND = 256
BACKGROUND_COLLECTIONS = 16
DEADLINE_S = 10
SIZES_KEPT_S = 10
SETTLING = timedelta(seconds=30)
"""What was indexed so recently may just be on its way into the other encoders' indexes."""
_MODELS_LOCK = 0x636C6F69
"""Key of the advisory lock between a switch and images that are becoming searchable."""


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
    """`region`: which part of the image is nearest; WHOLE_IMAGE or a row of its regions.

    `box`: that part's, in pixels of the upright image.
    """

    image_id: UUID
    collection_id: int
    region: int
    distance: float
    box: Region | None = None


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
    do not compare; and for more dimensions than an index takes.
    """
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ModelRefused(f"{dimensions} dimensions are not 1 to {MAX_DIMENSIONS}")
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


def encoder_named(name: str) -> EncoderVersion:
    """An encoder in use, live or not. Raises EncoderUnavailable where there is none."""
    version = EncoderVersion.objects.filter(name=name, retired_at__isnull=True).first()
    if version is None:
        raise EncoderUnavailable("there is no encoder of that name in use")
    return version


def switch(encoder: EncoderVersion) -> None:
    """Let `encoder` answer queries from now on, in one step; the one before can be switched back.

    As a worker's role. Raises ModelRefused where an indexed image has no vector of it yet: it
    would silently not be found; where it was retired; and where it was trained on images without
    a valid certificate.
    """
    encoder = EncoderVersion.objects.get(pk=encoder.pk)
    require_in_use(encoder)
    certificates.require_certified(encoder)
    give_up_at = time.monotonic() + SETTLING.total_seconds()
    while missing := _switch_if_complete(encoder):
        settling = count_without_vector(encoder, since=timezone.now() - SETTLING)
        if settling < missing or time.monotonic() > give_up_at:
            raise ModelRefused(f"{missing} indexed images have no vector of that encoder: fill it")
        time.sleep(0.2)


def _switch_if_complete(encoder: EncoderVersion) -> int:
    """Switch and return 0, or return how many indexed images have no vector of `encoder`."""
    with transaction.atomic(durable=True):
        # No image becomes searchable between the count and the switch.
        _lock_models(shared=False)
        if missing := sum(
            without_vector(encoder, collection_id).count()
            for collection_id in access.each_collection()
        ):
            return missing
        EncoderVersion.objects.filter(live=True).update(live=False)
        EncoderVersion.objects.filter(pk=encoder.pk).update(live=True)
        # Without an actor: a worker's role does not read the table of users.
        audit.record_in_transaction(
            Kind.ENCODER_CHANGED, actor=None, encoder=encoder.pk, change="went live"
        )
    return 0


def hold_live(encoder: EncoderVersion) -> None:
    """Keep `encoder` live until the end of this transaction, in which an image is indexed by it.

    Raises EncoderUnavailable where another one went live meanwhile: encode the image again.
    """
    _lock_models(shared=True)
    if not EncoderVersion.objects.filter(pk=encoder.pk, live=True).exists():
        raise EncoderUnavailable(f"encoder {encoder.pk} is no longer live")


def _lock_models(*, shared: bool) -> None:
    lock = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {lock}(%s)", [_MODELS_LOCK])


def retire(encoder: EncoderVersion) -> None:
    """Drop an encoder's vectors and indexes; its row stays for the record. As a worker's role.

    Running it again goes on where it was cut short. Raises ModelRefused for the live one.
    """
    with transaction.atomic(durable=True):
        _lock_models(shared=False)
        encoder = EncoderVersion.objects.get(pk=encoder.pk)
        if encoder.live:
            raise ModelRefused(f"encoder {encoder.pk} answers queries: switch to another one first")
        if encoder.retired_at is None:
            EncoderVersion.objects.filter(pk=encoder.pk).update(retired_at=timezone.now())
            audit.record_in_transaction(
                Kind.ENCODER_CHANGED, actor=None, encoder=encoder.pk, change="retired"
            )
    for collection_id in Collection.objects.values_list("pk", flat=True):
        with access.processing(collection_id), connection.cursor() as cursor:
            cursor.execute("SELECT cloister_drop_index(%s, %s)", [collection_id, encoder.pk])
            Embedding.objects.filter(collection_id=collection_id, encoder_id=encoder.pk).delete()


def require_in_use(encoder: EncoderVersion) -> None:
    """Raise ModelRefused for one that was retired."""
    if encoder.retired_at is not None:
        raise ModelRefused(f"encoder {encoder.pk} was retired: import it under another name")


def count_without_vector(encoder: EncoderVersion, *, since: datetime | None = None) -> int:
    """How many indexed images, in all collections, `encoder` has not seen. As a worker's role.

    `since`: of those that were indexed then or later.
    """
    with transaction.atomic(durable=True):
        return sum(
            (missing if since is None else missing.filter(indexed_at__gte=since)).count()
            for collection_id in access.each_collection()
            for missing in [without_vector(encoder, collection_id)]
        )


def coverage(encoder: EncoderVersion) -> float:
    """The share of all indexed images that `encoder` has seen; 1 where there are none."""
    with transaction.atomic(durable=True):
        indexed = sum(
            Image.objects.filter(collection_id=collection_id, state=State.INDEXED).count()
            for collection_id in access.each_collection()
        )
    return 1 - count_without_vector(encoder) / indexed if indexed else 1.0


def without_vector(encoder: EncoderVersion, collection_id: int) -> QuerySet[Image]:
    """The collection's indexed images that `encoder` has not seen, inside `access.processing`."""
    seen = Embedding.objects.filter(
        collection_id=collection_id, image_id=OuterRef("pk"), encoder_id=encoder.pk
    )
    return Image.objects.filter(~Exists(seen), state=State.INDEXED, collection_id=collection_id)


def to_fill(encoder: EncoderVersion, collection_id: int, *, parts_from: str) -> QuerySet[Image]:
    """Indexed images that `encoder` has not seen, or whose parts it has from elsewhere than
    `parts_from` (see `store`), inside `access.processing`."""
    seen = Embedding.objects.filter(
        collection_id=collection_id,
        image_id=OuterRef("pk"),
        encoder_id=encoder.pk,
        region=WHOLE_IMAGE,
        parts_from=parts_from,
    )
    return Image.objects.filter(~Exists(seen), state=State.INDEXED, collection_id=collection_id)


def coverage_of_parts(encoder: EncoderVersion, *, parts_from: str) -> float | None:
    """Of the indexed images whose collections find parts, the share that `encoder` has looked
    through for them as `parts_from` says; None where there are none. As a worker's role."""
    wanting = set(Collection.objects.filter(finds_parts=True).values_list("pk", flat=True))
    indexed = due = 0
    with transaction.atomic(durable=True):
        for collection_id in access.each_collection():
            if collection_id in wanting:
                indexed += Image.objects.filter(
                    collection_id=collection_id, state=State.INDEXED
                ).count()
                due += to_fill(encoder, collection_id, parts_from=parts_from).count()
    return 1 - due / indexed if indexed else None


def store(
    image: Image,
    vector: np.ndarray,
    *,
    encoder: EncoderVersion,
    parts: Sequence[tuple[Region, np.ndarray]] = (),
    parts_from: str = "",
) -> None:
    """Write an image's vector, inside `access.processing`; running twice leaves one row.

    vector: (dimensions,) float32, unit L2. parts: regions of it with vectors of their own, which
    take the place of those before. parts_from: how they were chosen, even where there was nothing
    to choose; empty where nobody looked. Raises NotDeidentified for an image that is not:
    the guard sits with the only writer. Raises ModelRefused for a retired encoder.
    """
    if image.state not in (State.DEIDENTIFIED, State.INDEXED):
        raise NotDeidentified(f"image {image.pk} is {image.state}")
    boxes = [None, *(region for region, _ in parts)]
    vectors = np.stack([vector, *(each for _, each in parts)])
    _write(
        image.collection_id,
        [image.pk] * len(boxes),
        vectors,
        encoder,
        boxes=boxes,
        parts_from=parts_from,
    )
    Embedding.objects.filter(
        collection_id=image.collection_id,
        image_id=image.pk,
        encoder_id=encoder.pk,
        region__gt=len(parts),
    ).delete()


def store_all(
    collection_id: int, images: Sequence[UUID], vectors: np.ndarray, *, encoder: EncoderVersion
) -> None:
    """Write many images' vectors in one statement, inside `access.processing`.

    vectors: (N, dimensions) float32, unit L2 rows, of N different images. Raises as `store`.
    """
    fit = Image.objects.filter(
        collection_id=collection_id, state__in=(State.DEIDENTIFIED, State.INDEXED)
    )
    if fit.filter(pk__in=images).count() != len(images):
        raise NotDeidentified(f"some of {len(images)} images are not, or not in that collection")
    _write(collection_id, images, vectors, encoder, boxes=[None] * len(images))


def _write(
    collection_id: int,
    images: Sequence[UUID],
    vectors: np.ndarray,
    encoder: EncoderVersion,
    *,
    boxes: Sequence[Region | None],
    parts_from: str = "",
) -> None:
    """A row for each vector; those of one image stand together, its regions in their order.

    Binary parameters, as COPY sends them; row-level security forbids COPY itself."""
    if vectors.shape != (len(images), encoder.dimensions):
        raise ValueError(f"encoder {encoder.pk} has {encoder.dimensions} dimensions")
    if EncoderVersion.objects.filter(pk=encoder.pk, retired_at__isnull=False).exists():
        raise ModelRefused(f"encoder {encoder.pk} was retired")
    rows = _as_array(vectors)
    # A whole image has no box, and its regions are counted from it on.
    numbers: list[int] = []
    for box in boxes:
        numbers.append(WHOLE_IMAGE if box is None else numbers[-1] + 1)
    corners = [None if box is None else f"{{{box}}}" for box in boxes]
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.adapters.register_dumper(_HalfVectors, _HalfVectorsDumper)
        cursor.execute(
            "INSERT INTO retrieval_embedding"
            " (collection_id, image_id, encoder_id, region, box, parts_from, vector)"
            " SELECT %s, image, %s, region, box::integer[],"
            " CASE region WHEN 0 THEN %s ELSE '' END, vector"
            " FROM unnest(%b::uuid[], %s::smallint[], %s::text[], %b::halfvec[])"
            " AS rows (image, region, box, vector)"
            " ON CONFLICT (collection_id, image_id, encoder_id, region)"
            " DO UPDATE SET vector = excluded.vector, box = excluded.box,"
            " parts_from = excluded.parts_from",
            [collection_id, encoder.pk, parts_from, list(images), numbers, corners, rows],
        )


class _HalfVectors(bytes):
    """PostgreSQL's binary form of halfvec[]."""


class _HalfVectorsDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: _HalfVectors) -> bytes:
        return obj


def _as_array(vectors: np.ndarray) -> _HalfVectors:
    count, dimensions = vectors.shape
    rows = np.zeros(
        count, [("bytes", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("v", ">f2", (dimensions,))]
    )
    rows["bytes"], rows["dim"], rows["v"] = 4 + 2 * dimensions, dimensions, vectors
    return _HalfVectors(struct.pack("!iiIii", 1, 0, _halfvec_oid(), count, 1) + rows.tobytes())


@cache
def _halfvec_oid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'halfvec'::regtype::oid::bigint")
        return int(cursor.fetchone()[0])


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


def sample_vectors(collection_id: int, count: int, *, encoder: EncoderVersion) -> np.ndarray:
    """Some whole images' vectors, (at most count, dimensions) float32, inside `processing`."""
    rows = Embedding.objects.filter(
        collection_id=collection_id, encoder_id=encoder.pk, region=WHOLE_IMAGE
    )
    # Ids are random: those behind a random one are a sample, and the primary key finds them.
    found = list(rows.filter(image_id__gte=uuid4()).order_by("image_id")[:count])
    found += list(rows.order_by("image_id")[: count - len(found)])
    return np.array([row.vector for row in found], np.float32)


def background(vector: np.ndarray, *, within: Sequence[int], encoder: EncoderVersion) -> np.ndarray:
    """Cosine similarities of `vector` to at most BACKGROUND of the permitted whole images.

    Always the same ones while nothing is added: equal questions have equal answers. Ids are
    random, so the first of each collection are a sample. Inside `access.acting_as`.
    """
    # Of many collections every nth: each is a partition to be planned and opened.
    asked = sorted(within)[:: -(-len(within) // BACKGROUND_COLLECTIONS)]
    each = sql.SQL(
        "(SELECT 1 - (vector::halfvec({d}) <=> {v}::halfvec({d})) FROM retrieval_embedding"
        " WHERE collection_id = {collection} AND encoder_id = {encoder} AND region = {whole}"
        " ORDER BY image_id LIMIT {share})"
    )
    samples = sql.SQL(" UNION ALL ").join(
        each.format(
            d=sql.Literal(encoder.dimensions),
            v=sql.Literal(HalfVector(vector).to_text()),
            collection=sql.Literal(int(collection_id)),
            encoder=sql.Literal(encoder.pk),
            whole=sql.Literal(WHOLE_IMAGE),
            share=sql.Literal(-(-BACKGROUND // len(asked))),
        )
        for collection_id in asked
    )
    with connection.cursor() as cursor, _deadline():
        cursor.execute(samples)
        return np.array([similarity for (similarity,) in cursor.fetchall()], np.float64)


def nearest(
    vector: np.ndarray,
    *,
    within: Sequence[int],
    encoder: EncoderVersion,
    limit: int,
    exact: bool = False,
    metric: Metric = Metric.COSINE,
    where: Filter = EVERYTHING,
    route: "Route | None" = None,
) -> list[Neighbour]:
    """The `limit` images nearest to `vector`, nearest first, inside `access.acting_as`.

    `within`: ids of the permitted collections. Each image is there once, by its nearest region.
    Never fewer than `limit` where as many are permitted and pass `where`. `exact`: read every
    such row, which is what the index is measured against. `route`: chosen here unless given, by
    who compares them. Raises SearchTooSlow.
    """
    if not within or limit < 1:
        return []
    query = _Query(vector, encoder, metric, where)
    with connection.cursor() as cursor, _deadline():
        if exact or metric is Metric.MANHATTAN:
            route = Route(Path.EXACT)
        elif route is None:
            route = _route(cursor, query, within)
        wanted = limit
        while True:
            found = _follow(cursor, route, query, within, wanted)
            images = _nearest_regions(found)
            read_all = route.path is Path.EXACT and len(found) < wanted
            if len(images) >= limit or read_all:
                return images[:limit]
            if len(found) < wanted:
                # The index gave up at its limit of rows looked at, with more behind the filter.
                route = Route(Path.EXACT)
            else:
                wanted *= 4


class Path(StrEnum):
    """How the permitted rows are searched. The choice depends on permitted rows alone."""

    EXACT = "exact"
    """Every row is read."""
    INDEX = "index"
    """The index of every permitted partition, each at its full depth."""
    BROAD = "broad"
    """Every permitted partition's index at a glance, then those that gave something in full."""


@dataclass(frozen=True)
class Route:
    path: Path
    ef_search: int = FULL_EF_SEARCH


@dataclass(frozen=True)
class _Query:
    vector: np.ndarray
    encoder: EncoderVersion
    metric: Metric
    where: Filter


@contextmanager
def _deadline() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise SearchTooSlow("the nearest images were not found in time") from error
        raise


def _route(cursor: CursorWrapper, query: _Query, within: Sequence[int]) -> Route:
    sizes = [size for size in _sizes(cursor, within, query.encoder) if size.rows]
    rows = sum(size.rows for size in sizes)
    if query.where != EVERYTHING and rows > EXACT_SCAN_ROWS:
        cursor.execute(
            sql.SQL(
                "SELECT count(*) FROM (SELECT FROM retrieval_image i"
                " WHERE i.collection_id IN ({collections}) AND {conditions} LIMIT {n}) AS passing"
            ).format(
                collections=_literals(within),
                conditions=_conditions(query.where),
                n=sql.Literal(EXACT_SCAN_ROWS + 1),
            )
        )
        (rows,) = cursor.fetchone()
    if rows <= EXACT_SCAN_ROWS:
        return Route(Path.EXACT)
    path = Path.INDEX if len(sizes) <= FEW_PARTITIONS else Path.BROAD
    return Route(path, max(size.ef_search for size in sizes))


@dataclass(frozen=True)
class _Size:
    rows: int
    ef_search: int
    read_at: float


_sizes_known: dict[tuple[int, int], _Size] = {}


def _sizes(cursor: CursorWrapper, within: Sequence[int], encoder: EncoderVersion) -> list[_Size]:
    """How much lies in each permitted partition, as of some seconds ago.

    Read under row-level security, and kept in this process for who may search there: an old number
    makes a search slower for a moment, never wrong.
    """
    now = time.monotonic()
    unknown = [
        collection_id
        for collection_id in within
        if (known := _sizes_known.get((collection_id, encoder.pk))) is None
        or now - known.read_at > SIZES_KEPT_S
    ]
    if unknown:
        cursor.execute(
            sql.SQL(
                "SELECT collection_id, rows, ef_search FROM retrieval_indexpart"
                " WHERE collection_id IN ({collections}) AND encoder_id = {encoder}"
            ).format(collections=_literals(unknown), encoder=sql.Literal(encoder.pk))
        )
        found = {collection_id: sizes for collection_id, *sizes in cursor.fetchall()}
        for collection_id in unknown:
            rows, ef_search = found.get(collection_id, (0, FULL_EF_SEARCH))
            _sizes_known[collection_id, encoder.pk] = _Size(rows, ef_search, now)
    return [_sizes_known[collection_id, encoder.pk] for collection_id in within]


def ef_search_of(within: Sequence[int], encoder: EncoderVersion) -> int:
    """What the sample of these collections' indexes showed to be enough."""
    parts = IndexPart.objects.filter(collection_id__in=within, encoder=encoder)
    return parts.aggregate(deepest=Max("ef_search"))["deepest"] or FULL_EF_SEARCH


def _follow(
    cursor: CursorWrapper, route: Route, query: _Query, within: Sequence[int], limit: int
) -> list[Neighbour]:
    """At most `limit` rows, nearest first. Fewer: there are no more on this route."""
    # Twice the wanted rows keeps recall; the iterative scan goes on where a page of dead rows
    # or a limit beyond ef_search would leave fewer than are there.
    depth = min(max(route.ef_search, 2 * limit), MAX_EF_SEARCH)
    if route.path is not Path.BROAD:
        _prepare(cursor, depth)
        return _scan(cursor, query, within, limit, exact=route.path is Path.EXACT)
    glance = max(GLANCE_EF_SEARCH, FEW_PARTITIONS * depth // len(within))
    _prepare(cursor, min(glance, depth), by_index_only=True)
    found = _scan(cursor, query, within, limit)
    # In order of their best row, and no more than what the answer has time for.
    giving = list(dict.fromkeys(n.collection_id for n in found))[:FEW_PARTITIONS]
    _prepare(cursor, depth, by_index_only=True)
    deeper = _scan(cursor, query, giving, limit) if giving else []
    rows = {(n.image_id, n.region): n for n in [*found, *deeper]}
    return sorted(rows.values(), key=lambda n: n.distance)[:limit]


def _prepare(cursor: CursorWrapper, ef_search: int, *, by_index_only: bool = False) -> None:
    """Settings of this transaction's next scan."""
    settings = {
        "hnsw.ef_search": str(max(1, ef_search)),
        "hnsw.iterative_scan": "strict_order",
        "statement_timeout": f"{DEADLINE_S}s",
        # It costs more than any of these scans.
        "jit": "off",
        # For a short glance the planner takes a sort of the whole partition to be as cheap.
        "enable_seqscan": "off" if by_index_only else "on",
        "enable_bitmapscan": "off" if by_index_only else "on",
    }
    cursor.execute(
        sql.SQL("SELECT {}").format(
            sql.SQL(", ").join(
                sql.SQL("set_config({}, {}, true)").format(sql.Literal(k), sql.Literal(v))
                for k, v in settings.items()
            )
        )
    )


def _scan(
    cursor: CursorWrapper,
    query: _Query,
    within: Sequence[int],
    limit: int,
    *,
    exact: bool = False,
) -> list[Neighbour]:
    """One scan of the permitted rows: the planner prunes by literals alone."""

    def distance(operator: str) -> sql.Composed:
        return sql.SQL("e.vector::halfvec({d}) {operator} {v}::halfvec({d})").format(
            d=sql.Literal(query.encoder.dimensions),
            operator=sql.SQL(operator),
            v=sql.Literal(HalfVector(query.vector).to_text()),
        )

    rows = sql.SQL("e.collection_id IN ({collections}) AND e.encoder_id = {encoder}").format(
        collections=_literals(within), encoder=sql.Literal(query.encoder.pk)
    )
    if query.where != EVERYTHING:
        rows = sql.SQL(
            "{rows} AND EXISTS (SELECT FROM retrieval_image i WHERE i.id = e.image_id"
            " AND i.collection_id IN ({collections}) AND {conditions})"
        ).format(rows=rows, collections=_literals(within), conditions=_conditions(query.where))
    by_index = query.metric is not Metric.MANHATTAN
    cursor.execute(
        sql.SQL(
            "SELECT image_id, collection_id, region, distance, box"
            " FROM (SELECT e.image_id, e.collection_id, e.region, e.box, {distance} AS distance,"
            " {rank} AS rank FROM retrieval_embedding e WHERE {rows}) AS permitted"
            " ORDER BY {order} LIMIT {limit}"
        ).format(
            distance=distance(query.metric),
            rank=distance(Metric.COSINE) if by_index else sql.SQL("NULL::float8"),
            rows=rows,
            # An expression that no index is ordered by.
            order=sql.SQL("distance + 0" if exact else "rank"),
            limit=sql.Literal(limit),
        )
    )
    return [
        Neighbour(image_id, collection_id, region, far, None if box is None else Region(*box))
        for image_id, collection_id, region, far, box in cursor.fetchall()
    ]


def _literals(within: Sequence[int]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Literal(int(c)) for c in sorted(within))


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


def _nearest_regions(found: Sequence[Neighbour]) -> list[Neighbour]:
    first: dict[UUID, Neighbour] = {}
    for neighbour in sorted(found, key=lambda n: n.distance):
        first.setdefault(neighbour.image_id, neighbour)
    return list(first.values())
