"""The nearest of what is permitted, and what else there is to hold them against."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from django.db import connection
from psycopg import sql

from retrieval.index.asked import EVERYTHING, Asked, Filter, Metric, halfvec, literals
from retrieval.index.encoders import require_kept
from retrieval.index.in_time import deadline, time_left
from retrieval.index.route import Path, Route, route_for, rows_per_image
from retrieval.index.scan import Neighbour, follow
from retrieval.index.vectors import as_vector
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
    """The `limit` images nearest to `vector`, nearest first, inside `access.reading_as`
    or `access.acting_as`.

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
        # One scan is enough, as a rule, where every row may be of another image or all of a few.
        wanted = limit * rows_per_image(cursor, within, encoder)
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
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the image `beside`, (rows, dimensions), and what else there is to hold it
    against: how near at most BACKGROUND of the permitted images are to `vector`, each by its
    nearest row, as cosine similarities.

    Always the same ones while nothing is added: equal questions have equal answers. Ids are
    random, so the first of each collection are a sample. No rows where `beside` is not permitted.
    Inside `access.reading_as`.
    """
    # Of many collections every nth: each is a partition to be planned and opened.
    sampled = sorted(within)[:: -(-len(within) // BACKGROUND_COLLECTIONS)]
    with connection.cursor() as cursor, deadline():
        share = -(-BACKGROUND // len(sampled)) * rows_per_image(cursor, within, encoder)
        # The samples as one part of the statement: as one for each collection, each would have its
        # policy worked out anew, and with all of them planning would cost more than a scan.
        statement = sql.SQL(
            "SELECT {time_left};"
            " WITH asked AS MATERIALIZED (SELECT {vector} AS vector)"
            " SELECT row.image_id, 1 - (row.vector <=> asked.vector),"
            " CASE WHEN row.is_beside THEN row.vector::text END"
            " FROM asked, (SELECT image_id, vector, true AS is_beside FROM retrieval_embedding"
            " WHERE collection_id IN ({permitted}) AND collection_id = {its_collection}"
            " AND image_id = {image} AND encoder_id = {encoder}"
            " UNION ALL SELECT sample.*, false FROM unnest(ARRAY[{sampled}]) AS one (collection),"
            " LATERAL (SELECT image_id, vector FROM retrieval_embedding"
            " WHERE collection_id IN ({sampled}) AND collection_id = one.collection"
            " AND encoder_id = {encoder} ORDER BY image_id, region LIMIT {share}) AS sample) AS row"
        )
        cursor.execute(
            statement.format(
                time_left=time_left(),
                vector=halfvec(vector),
                permitted=literals(within),
                its_collection=sql.Literal(beside.collection_id),
                image=sql.Literal(beside.image_id),
                encoder=sql.Literal(encoder.pk),
                sampled=literals(sampled),
                share=sql.Literal(share),
            )
        )
        cursor.nextset()
        found = cursor.fetchall()
    own = [as_vector(text) for _, _, text in found if text is not None]
    nearest_of: dict[UUID, float] = {}
    for image_id, similarity, text in found:
        if text is None:
            nearest_of[image_id] = max(similarity, nearest_of.get(image_id, -1.0))
    rows = np.array(own, np.float32).reshape(len(own), encoder.dimensions)
    return rows, np.array(list(nearest_of.values()), np.float64)
