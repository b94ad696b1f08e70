"""One way through the permitted rows, as the statements that take it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from django.db import OperationalError
from django.db.backends.utils import CursorWrapper
from pgvector import HalfVector
from psycopg import sql
from psycopg.errors import QueryCanceled

from retrieval.errors import SearchTooSlow
from retrieval.index.asked import EVERYTHING, Asked, Metric, conditions, literals
from retrieval.index.route import FEW_PARTITIONS, Path, Route
from retrieval.models.image import Region

GLANCE_EF_SEARCH = 20
"""What a glance at one of many partitions looks at. Measured: docs/benchmarks.md."""
MAX_EF_SEARCH = 1000
DEADLINE_S = 10


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


@contextmanager
def deadline() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise SearchTooSlow("the nearest images were not found in time") from error
        raise


def follow(
    cursor: CursorWrapper, route: Route, query: Asked, within: Sequence[int], limit: int
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
    query: Asked,
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
        collections=literals(within), encoder=sql.Literal(query.encoder.pk)
    )
    if query.where != EVERYTHING:
        rows = sql.SQL(
            "{rows} AND EXISTS (SELECT FROM retrieval_image i WHERE i.id = e.image_id"
            " AND i.collection_id IN ({collections}) AND {conditions})"
        ).format(rows=rows, collections=literals(within), conditions=conditions(query, within))
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
