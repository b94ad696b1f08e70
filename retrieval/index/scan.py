"""One way through the permitted rows, as the statements that take it."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.backends.utils import CursorWrapper
from psycopg import sql

from retrieval.index.asked import EVERYTHING, Asked, Metric, conditions, halfvec, literals
from retrieval.index.in_time import time_left
from retrieval.index.route import FEW_PARTITIONS, Path, Route
from retrieval.models.image import Region

GLANCE_EF_SEARCH = 20
"""What a glance at one of many partitions looks at. Measured: docs/benchmarks.md."""
MAX_EF_SEARCH = 1000


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


def follow(
    cursor: CursorWrapper, route: Route, query: Asked, within: Sequence[int], limit: int
) -> list[Neighbour]:
    """At most `limit` rows, nearest first. Fewer: there are no more on this route."""
    # Twice the wanted rows keeps recall; the iterative scan goes on where a page of dead rows
    # or a limit beyond ef_search would leave fewer than are there.
    depth = min(max(route.ef_search, 2 * limit), MAX_EF_SEARCH)
    if route.path is not Path.BROAD:
        return _scan(cursor, query, within, limit, depth, exact=route.path is Path.EXACT)
    glance = max(GLANCE_EF_SEARCH, FEW_PARTITIONS * depth // len(within))
    found = _scan(cursor, query, within, limit, min(glance, depth), by_index_only=True)
    # In order of their best row, and no more than what the answer has time for.
    giving = list(dict.fromkeys(n.collection_id for n in found))[:FEW_PARTITIONS]
    deeper = _scan(cursor, query, giving, limit, depth, by_index_only=True) if giving else []
    rows = {(n.image_id, n.region): n for n in [*found, *deeper]}
    return sorted(rows.values(), key=lambda n: n.distance)[:limit]


def _scan(
    cursor: CursorWrapper,
    query: Asked,
    within: Sequence[int],
    limit: int,
    ef_search: int,
    *,
    exact: bool = False,
    by_index_only: bool = False,
) -> list[Neighbour]:
    """One scan of the permitted rows, sent together with its settings."""
    statement = _statement(query, within, limit, exact=exact)
    settings = _settings(ef_search, by_index_only=by_index_only)
    cursor.execute(sql.SQL("{}; {}").format(settings, statement))
    cursor.nextset()
    return [
        Neighbour(image_id, collection_id, region, far, None if box is None else Region(*box))
        for image_id, collection_id, region, far, box in cursor.fetchall()
    ]


def _settings(ef_search: int, *, by_index_only: bool) -> sql.Composed:
    """This transaction's, for its next scan."""
    settings = {
        "hnsw.ef_search": str(max(1, ef_search)),
        "hnsw.iterative_scan": "strict_order",
        # It costs more than any of these scans.
        "jit": "off",
        # For a short glance the planner takes a sort of the whole partition to be as cheap.
        "enable_seqscan": "off" if by_index_only else "on",
        "enable_bitmapscan": "off" if by_index_only else "on",
    }
    return sql.SQL("SELECT {}, {}").format(
        time_left(),
        sql.SQL(", ").join(
            sql.SQL("set_config({}, {}, true)").format(sql.Literal(k), sql.Literal(v))
            for k, v in settings.items()
        ),
    )


def _statement(query: Asked, within: Sequence[int], limit: int, *, exact: bool) -> sql.Composed:
    """The planner prunes by literals alone."""
    vector = halfvec(query.vector)

    def distance(metric: Metric) -> sql.Composed:
        return sql.SQL("e.vector::halfvec({}) {} {}").format(
            sql.Literal(query.encoder.dimensions), sql.SQL(metric), vector
        )

    rows = sql.SQL("e.collection_id IN ({collections}) AND e.encoder_id = {encoder}").format(
        collections=literals(within), encoder=sql.Literal(query.encoder.pk)
    )
    if query.where != EVERYTHING:
        rows = sql.SQL(
            "{rows} AND EXISTS (SELECT FROM retrieval_image i WHERE i.id = e.image_id"
            " AND i.collection_id IN ({collections}) AND {conditions})"
        ).format(rows=rows, collections=literals(within), conditions=conditions(query, within))
    columns = sql.SQL("e.image_id, e.collection_id, e.region, {} AS distance, e.box").format(
        distance(query.metric)
    )
    select = sql.SQL("SELECT {} FROM retrieval_embedding e WHERE {}").format(columns, rows)
    if exact:
        # Behind OFFSET 0 no index is ordered by it, and it is worked out once a row.
        select = sql.SQL("SELECT * FROM ({} OFFSET 0) AS permitted").format(select)
    by_index = not exact and query.metric is not Metric.COSINE
    # Of an encoder that was retired by now, nothing: its vectors are being dropped.
    return sql.SQL(
        "SELECT * FROM ({} ORDER BY {} LIMIT {}) AS nearest WHERE"
        " (SELECT retired_at IS NULL FROM retrieval_encoderversion WHERE id = {})"
    ).format(
        select,
        distance(Metric.COSINE) if by_index else sql.SQL("distance"),
        sql.Literal(limit),
        sql.Literal(query.encoder.pk),
    )
