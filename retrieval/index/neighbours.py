"""The nearest of what is permitted, and what else there is to hold them against."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from django.db import connection
from pgvector import HalfVector
from psycopg import sql

from retrieval.index.asked import EVERYTHING, Asked, Filter, Metric
from retrieval.index.route import Path, Route, route_for
from retrieval.index.scan import Neighbour, deadline, follow
from retrieval.index.vectors import WHOLE_IMAGE
from retrieval.models import EncoderVersion

BACKGROUND = 256
BACKGROUND_COLLECTIONS = 16


def nearest(
    vector: np.ndarray,
    *,
    within: Sequence[int],
    encoder: EncoderVersion,
    limit: int,
    exact: bool = False,
    metric: Metric = Metric.COSINE,
    where: Filter = EVERYTHING,
    route: Route | None = None,
) -> list[Neighbour]:
    """The `limit` images nearest to `vector`, nearest first, inside `access.acting_as`.

    `within`: ids of the permitted collections. Each image is there once, by its nearest region.
    Never fewer than `limit` where as many are permitted and pass `where`. `exact`: read every
    such row, which is what the index is measured against. `route`: chosen here unless given, by
    who compares them. Raises SearchTooSlow.
    """
    if not within or limit < 1:
        return []
    query = Asked(vector, encoder, metric, where)
    with connection.cursor() as cursor, deadline():
        if exact or metric is Metric.MANHATTAN:
            route = Route(Path.EXACT)
        elif route is None:
            route = route_for(cursor, query, within)
        wanted = limit
        while True:
            found = follow(cursor, route, query, within, wanted)
            images = _nearest_regions(found)
            read_all = route.path is Path.EXACT and len(found) < wanted
            if len(images) >= limit or read_all:
                return images[:limit]
            if len(found) < wanted:
                # The index gave up at its limit of rows looked at, with more behind the filter.
                route = Route(Path.EXACT)
            else:
                wanted *= 4


def _nearest_regions(found: Sequence[Neighbour]) -> list[Neighbour]:
    first: dict[UUID, Neighbour] = {}
    for neighbour in sorted(found, key=lambda n: n.distance):
        first.setdefault(neighbour.image_id, neighbour)
    return list(first.values())


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
    with connection.cursor() as cursor, deadline():
        cursor.execute(samples)
        return np.array([similarity for (similarity,) in cursor.fetchall()], np.float64)
