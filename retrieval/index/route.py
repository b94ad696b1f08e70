"""How the permitted rows are searched: by what lies in them, and by nothing else."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from django.db.backends.utils import CursorWrapper
from django.db.models import Max
from psycopg import sql

from retrieval.index.asked import EVERYTHING, Asked, conditions, literals
from retrieval.index.in_time import time_left
from retrieval.models import EncoderVersion, IndexPart

EXACT_SCAN_ROWS = 2000
"""Up to so many permitted rows an exact scan is as fast as the HNSW index, and loses nothing."""
FEW_PARTITIONS = 10
"""So many partitions are each searched in full: about 10 ms. More are glanced at first."""
FULL_EF_SEARCH = 100
"""What a search of one partition looks at, unless its sample showed that it takes more."""
MOST_ROWS_PER_IMAGE = 10
SIZES_KEPT_S = 10


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


def route_for(cursor: CursorWrapper, query: Asked, within: Sequence[int]) -> Route:
    sizes = [size for size in _sizes(cursor, within, query.encoder) if size.rows]
    rows = sum(size.rows for size in sizes)
    if query.where != EVERYTHING and rows > EXACT_SCAN_ROWS:
        cursor.execute(
            sql.SQL(
                "SELECT {time_left}; SELECT count(*) FROM (SELECT FROM retrieval_image i"
                " WHERE i.collection_id IN ({collections}) AND {conditions} LIMIT {n}) AS passing"
            ).format(
                time_left=time_left(),
                collections=literals(within),
                conditions=conditions(query, within),
                n=sql.Literal(EXACT_SCAN_ROWS + 1),
            )
        )
        cursor.nextset()
        (rows,) = cursor.fetchone()
    if rows <= EXACT_SCAN_ROWS:
        return Route(Path.EXACT)
    path = Path.INDEX if len(sizes) <= FEW_PARTITIONS else Path.BROAD
    return Route(path, max(size.ef_search for size in sizes))


def rows_per_image(cursor: CursorWrapper, within: Sequence[int], encoder: EncoderVersion) -> int:
    """On the mean of the permitted collection where it is greatest, rounded up; 1 without parts.

    At most MOST_ROWS_PER_IMAGE: one collection of long reports makes no search of all others long.
    """
    sizes = _sizes(cursor, within, encoder)
    means = [-(-size.rows // size.images) for size in sizes if size.images]
    return min(max(means, default=1), MOST_ROWS_PER_IMAGE)


@dataclass(frozen=True)
class _Size:
    rows: int
    images: int
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
                "SELECT collection_id, rows, images, ef_search FROM retrieval_indexpart"
                " WHERE collection_id IN ({collections}) AND encoder_id = {encoder}"
            ).format(collections=literals(unknown), encoder=sql.Literal(encoder.pk))
        )
        found = {collection_id: sizes for collection_id, *sizes in cursor.fetchall()}
        for collection_id in unknown:
            rows, images, ef_search = found.get(collection_id, (0, 0, FULL_EF_SEARCH))
            _sizes_known[collection_id, encoder.pk] = _Size(rows, images, ef_search, now)
    return [_sizes_known[collection_id, encoder.pk] for collection_id in within]


def ef_search_of(within: Sequence[int], encoder: EncoderVersion) -> int:
    """What the sample of these collections' indexes showed to be enough."""
    parts = IndexPart.objects.filter(collection_id__in=within, encoder=encoder)
    return parts.aggregate(deepest=Max("ef_search"))["deepest"] or FULL_EF_SEARCH
