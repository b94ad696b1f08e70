"""The nearest of what is permitted, and what else there is to hold them against."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from django.db import connection
from psycopg import sql

from retrieval.index.asked import EVERYTHING, Asked, Filter, Metric, halfvec, literals
from retrieval.index.encoders import require_kept
from retrieval.index.route import Path, Route, route_for
from retrieval.index.scan import Neighbour, deadline, follow
from retrieval.index.vectors import WHOLE_IMAGE, as_vector
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
    who compares them. Raises SearchTooSlow, and EncoderUnavailable where it was retired by now.
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
            if len(images) >= limit:
                return images[:limit]
            if read_all:
                require_kept(encoder)
                return images
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


def background(
    vector: np.ndarray, *, beside: Neighbour, within: Sequence[int], encoder: EncoderVersion
) -> tuple[np.ndarray | None, np.ndarray]:
    """The vector of `beside`, of that region of it, and what else there is to hold it against:
    cosine similarities of `vector` to at most BACKGROUND of the permitted whole images.

    Always the same ones while nothing is added: equal questions have equal answers. Ids are
    random, so the first of each collection are a sample. None where `beside` is not permitted.
    Inside `access.acting_as`.
    """
    # Of many collections every nth: each is a partition to be planned and opened.
    asked = sorted(within)[:: -(-len(within) // BACKGROUND_COLLECTIONS)]
    of_encoder = sql.SQL("encoder_id = {} AND region = {}").format(
        sql.Literal(encoder.pk), sql.Literal(WHOLE_IMAGE)
    )
    samples = sql.SQL(" UNION ALL ").join(
        sql.SQL(
            "(SELECT vector, false FROM retrieval_embedding WHERE collection_id = {collection}"
            " AND {of_encoder} ORDER BY image_id LIMIT {share})"
        ).format(
            collection=sql.Literal(int(collection_id)),
            of_encoder=of_encoder,
            share=sql.Literal(-(-BACKGROUND // len(asked))),
        )
        for collection_id in asked
    )
    with connection.cursor() as cursor, deadline():
        cursor.execute(
            sql.SQL(
                "WITH asked AS MATERIALIZED (SELECT {vector} AS vector)"
                " SELECT 1 - (row.vector <=> asked.vector),"
                " CASE WHEN row.is_beside THEN row.vector::text END"
                " FROM asked, ((SELECT vector, true AS is_beside FROM retrieval_embedding"
                " WHERE collection_id IN ({collections}) AND image_id = {image}"
                " AND encoder_id = {encoder} AND region = {region}) UNION ALL {samples}) AS row"
            ).format(
                vector=halfvec(vector),
                collections=literals(within),
                image=sql.Literal(beside.image_id),
                encoder=sql.Literal(encoder.pk),
                region=sql.Literal(beside.region),
                samples=samples,
            )
        )
        found = cursor.fetchall()
    own = [as_vector(text) for _, text in found if text is not None]
    similarities = [similarity for similarity, text in found if text is None]
    return (own[0] if own else None), np.array(similarities, np.float64)
