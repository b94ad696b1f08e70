"""Vectors as rows: written in bulk, read one by one."""

import struct
from collections.abc import Iterable, Sequence
from functools import cache
from uuid import UUID, uuid4

import numpy as np
import psycopg
from django.db import connection
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format

from retrieval.errors import ModelRefused, NotDeidentified
from retrieval.index.asked import literals
from retrieval.index.tagging import tag_by_vectors
from retrieval.models import Embedding, EncoderVersion, Image, Reads, State
from retrieval.models.image import Region

WHOLE_IMAGE = 0


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


def store_report(image: Image, vectors: np.ndarray, *, encoder: EncoderVersion) -> None:
    """Write the vectors of a report's passages in the place of those before, as `store` does.

    vectors: (N, dimensions) float32, unit L2 rows, N from 0. Raises as `store`.
    """
    if image.state not in (State.DEIDENTIFIED, State.INDEXED):
        raise NotDeidentified(f"image {image.pk} is {image.state}")
    if len(vectors):
        _write(
            image.collection_id,
            [image.pk] * len(vectors),
            vectors,
            encoder,
            boxes=[None] * len(vectors),
            passages=True,
        )
    Embedding.objects.filter(
        collection_id=image.collection_id,
        image_id=image.pk,
        encoder_id=encoder.pk,
        region__gte=len(vectors),
    ).delete()


def forget_report(image: Image) -> None:
    """Drop the vectors of an image's report, of all encoders, inside `access.processing`."""
    readers = EncoderVersion.objects.filter(reads=Reads.REPORTS).values_list("pk", flat=True)
    Embedding.objects.filter(
        collection_id=image.collection_id, image_id=image.pk, encoder_id__in=list(readers)
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
    passages: bool = False,
) -> None:
    """A row for each vector; those of one image stand together, its regions in their order.

    passages: they are all of one image, counted from 0.

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
    if passages:
        numbers = list(range(len(boxes)))
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
    tag_by_vectors(collection_id, encoder, images)


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
    """Whole images' vectors, (dimensions,) float32, by image, inside `access.reading_as`.

    `within`: ids of the permitted collections. Those of other or unknown images are left out.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                "SELECT image_id, vector::text FROM retrieval_embedding"
                " WHERE collection_id IN ({collections}) AND image_id = ANY ({images}::uuid[])"
                " AND encoder_id = {encoder} AND region = {whole}"
            ).format(
                collections=literals(within),
                images=sql.Literal(list(image_ids)),
                encoder=sql.Literal(encoder.pk),
                whole=sql.Literal(WHOLE_IMAGE),
            )
        )
        return {image_id: as_vector(text) for image_id, text in cursor.fetchall()}


def as_vector(text: str) -> np.ndarray:
    """(dimensions,) float32, as PostgreSQL writes a vector."""
    return np.fromstring(text[1:-1], np.float32, sep=",")


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
