"""What is asked of the rows, and how SQL says it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final

import numpy as np
from psycopg import sql

from retrieval.models import EncoderVersion, Reads


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

    `media_types`, `modalities`, `subjects` (their ids): one of them. `tags`: all of them, each set
    by people or by the encoder whose vectors are searched, of pictures by the live one where those
    are of reports; `peoples_tags`: by people.
    """

    taken_from: date | None = None
    taken_until: date | None = None
    received_from: date | None = None
    received_until: date | None = None
    media_types: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    subjects: tuple[int, ...] = ()
    tags: tuple[str, ...] = field(default=(), repr=False)
    peoples_tags: tuple[str, ...] = field(default=(), repr=False)


EVERYTHING = Filter()


@dataclass(frozen=True)
class Asked:
    vector: np.ndarray
    encoder: EncoderVersion
    metric: Metric
    where: Filter


_FIVE_DIGITS: Final = "%.5g"
"""Of a half-precision number: enough to read the same one again."""


def halfvec(vector: np.ndarray) -> sql.SQL:
    """A vector as SQL writes it. vector: (dimensions,) of numbers."""
    numbers = ",".join([_FIVE_DIGITS] * len(vector)) % tuple(vector.astype(np.float16).tolist())
    return sql.SQL(f"'[{numbers}]'::halfvec({len(vector)})")


def literals(within: Sequence[int]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Literal(int(c)) for c in sorted(within))


def conditions(query: Asked, within: Sequence[int]) -> sql.Composed:
    """Those of `query.where`, of an image `i` in the permitted collections."""
    where = query.where
    asked: list[tuple[str, object]] = [
        ("i.taken_on >= {}", where.taken_from),
        ("i.taken_on <= {}", where.taken_until),
        ("i.received_at >= {}::date", where.received_from),
        ("i.received_at < {}::date + 1", where.received_until),
        ("i.media_type = ANY ({}::text[])", list(where.media_types)),
        ("i.modality = ANY ({}::text[])", list(where.modalities)),
        ("i.subject_id = ANY ({}::bigint[])", list(where.subjects)),
        ("i.tags @> {}::varchar[]", list(where.peoples_tags)),
    ]
    told = [sql.SQL(condition).format(sql.Literal(value)) for condition, value in asked if value]
    return sql.SQL(" AND ").join([*told, *(_bears(tag, query, within) for tag in where.tags)])


def _bears(tag: str, query: Asked, within: Sequence[int]) -> sql.Composed:
    """By people's tags or the encoder's: each is looked up in its own index."""
    # Reports have none: what a picture shows holds for what its report finds, too.
    of_pictures = sql.SQL("(SELECT id FROM retrieval_encoderversion WHERE live AND reads = {})")
    encoder: sql.Composable = sql.Literal(query.encoder.pk)
    if query.encoder.reads != Reads.PICTURES:
        encoder = of_pictures.format(sql.Literal(Reads.PICTURES.value))
    return sql.SQL(
        "i.id IN (SELECT b.id FROM retrieval_image b"
        " WHERE b.collection_id IN ({collections}) AND b.tags @> {tags}::varchar[]"
        " UNION ALL SELECT a.image_id FROM retrieval_tagword w"
        " JOIN retrieval_tagthreshold t ON t.word_id = w.id AND t.encoder_id = {encoder}"
        " JOIN retrieval_automatictag a ON a.threshold_id = t.id"
        " WHERE w.collection_id IN ({collections}) AND w.word = {tag})"
    ).format(
        collections=literals(within),
        encoder=encoder,
        tags=sql.Literal([tag]),
        tag=sql.Literal(tag),
    )
