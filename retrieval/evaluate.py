"""How well search finds what it should: rankings against judged queries.

Measures: Manning, Raghavan & Schütze 2008, "Introduction to Information Retrieval", chapter 8;
nDCG with binary gains, Järvelin & Kekäläinen 2002. Intervals: percentile bootstrap over queries,
Efron & Tibshirani 1993, chapter 13.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import UUID

import numpy as np

from retrieval import access, audit, index, queue, storage
from retrieval.errors import AccessDenied, EncoderUnavailable, QueriesUnreadable
from retrieval.models import Collection, EncoderVersion, Image, Kind, Purpose, State, User
from retrieval.models.grant import Capability

DEPTH = 100
"""Ranks that are looked at. MAP and nDCG see nothing beyond."""
CUTS = (1, 5, 10)
RESAMPLES = 1000
CONFIDENCE = 0.95
MAX_QUERIES_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Judged:
    """Words, and the names or ids of the images that answer them."""

    words: str
    relevant: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """One query's ranking, held against what is relevant.

    `ranks`: 1-based ranks of the relevant images among the first DEPTH. `relevant`: how many
    there are, those that cannot be found included. `exact`: the share of the ten exactly nearest
    images that are among the first ten. `collections`: where the relevant ones lie.
    """

    ranks: tuple[int, ...]
    relevant: int
    exact: float
    collections: frozenset[int]


@dataclass(frozen=True)
class Evaluation:
    """What the live encoder found. `unknown`: relevant names and ids no searchable image has."""

    encoder: EncoderVersion
    outcomes: list[Outcome]
    collections: list[Collection]
    unknown: int
    audit_number: int


def read_queries(path: Path) -> list[Judged]:
    """Tab-separated with the header `query`, `relevant`; several relevant ones, a space between.

    Raises QueriesUnreadable with the number of the first wrong line.
    """
    try:
        if path.stat().st_size > MAX_QUERIES_BYTES:
            raise QueriesUnreadable(f"a file of queries has at most {MAX_QUERIES_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_judged(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QueriesUnreadable("the file of queries cannot be read") from error


def _judged(rows: "csv.DictReader[str]") -> Iterable[Judged]:
    if not {"query", "relevant"} <= set(rows.fieldnames or ()):
        raise QueriesUnreadable("the first line must name the columns query and relevant")
    empty = True
    for row in rows:
        words, relevant = (row["query"] or "").strip(), (row["relevant"] or "").split()
        if not (words and relevant):
            raise QueriesUnreadable(f"line {rows.line_num} lacks a query or what is relevant")
        empty = False
        yield Judged(words, frozenset(relevant))
    if empty:
        raise QueriesUnreadable("the file holds no query")


def evaluate(
    queries: Sequence[Judged],
    *,
    actor: User,
    purpose: Purpose,
    collections: Sequence[int] | None = None,
) -> Evaluation:
    """Rank what `actor` may search for every query, and record it once, before anything is told.

    An image that is not searchable, or not for this actor, counts as not found. Raises
    AccessDenied unless the actor may search and see source names: they name what is relevant.
    Raises EncoderUnavailable (transient).
    """
    permitted = [
        collection
        for collection in access.collections_where(actor, purpose, Capability.SEARCH)
        if collections is None or collection.pk in collections
    ]
    named = access.collections_where(actor, purpose, Capability.SEE_SOURCE_NAMES)
    if not permitted or not {c.pk for c in permitted} <= {c.pk for c in named}:
        audit.record(Kind.SEARCH_DENIED, actor=actor, purpose=purpose, evaluation=True)
        raise AccessDenied(f"user {actor.pk} may not evaluate there")
    encoder = index.live_encoder()
    vectors = {words: _encode(words, actor, encoder) for words in {q.words for q in queries}}
    within = [collection.pk for collection in permitted]
    with access.acting_as(actor, purpose):
        known = _by_name(within)
        rankings = {
            words: _rank(vector, within=within, encoder=encoder)
            for words, vector in vectors.items()
        }
    outcomes = [_outcome(query, *rankings[query.words], known=known) for query in queries]
    number = audit.record(
        Kind.SEARCH_EVALUATED,
        actor=actor,
        purpose=purpose,
        collections=[str(c.pk) for c in permitted],
        encoder=encoder.pk,
        queries=len(queries),
    )
    unknown = {name for query in queries for name in query.relevant} - known.keys()
    return Evaluation(encoder, outcomes, permitted, len(unknown), number)


def _encode(words: str, actor: User, encoder: EncoderVersion) -> np.ndarray:
    found = queue.encode_query([queue.ToEncode(words=words)], asker=actor.pk)
    if found.encoder != encoder.name:
        raise EncoderUnavailable("the live encoder changed while the queries were encoded")
    (vector,) = found.vectors
    return vector


def _by_name(within: Sequence[int]) -> dict[str, frozenset[tuple[UUID, int]]]:
    """From an id, a source name and its last part to the images it may mean."""
    found: dict[str, set[tuple[UUID, int]]] = defaultdict(set)
    for image in Image.objects.filter(state=State.INDEXED, collection__in=within).iterator():
        name = storage.source_name(image)
        for key in {str(image.pk), name, PurePosixPath(name).name}:
            found[key].add((image.pk, image.collection_id))
    return {key: frozenset(images) for key, images in found.items()}


def _rank(
    vector: np.ndarray, *, within: Sequence[int], encoder: EncoderVersion
) -> tuple[list[UUID], float]:
    """The first DEPTH images, and the share of the exact first ten among the first ten."""
    found, exact = (
        [
            n.image_id
            for n in index.nearest(
                vector, within=within, encoder=encoder, limit=limit, exact=exactly
            )
        ]
        for limit, exactly in ((DEPTH, False), (CUTS[-1], True))
    )
    agreed = len(set(exact) & set(found[: CUTS[-1]]))
    return found, agreed / len(exact) if exact else 1.0


def _outcome(
    query: Judged,
    found: Sequence[UUID],
    exact: float,
    *,
    known: Mapping[str, frozenset[tuple[UUID, int]]],
) -> Outcome:
    """A name that several images bear is satisfied by the first of them."""
    rank_of = {image_id: rank for rank, image_id in enumerate(found, start=1)}
    ranks, collections = [], set()
    for name in query.relevant:
        images = known.get(name, frozenset())
        collections |= {collection for _, collection in images}
        if best := min((rank_of[i] for i, _ in images if i in rank_of), default=0):
            ranks.append(best)
    return Outcome(tuple(sorted(ranks)), len(query.relevant), exact, frozenset(collections))


def measures(outcome: Outcome) -> dict[str, float]:
    """All measures of one query, each in [0, 1]."""
    found = {}
    for k in CUTS:
        hits = sum(rank <= k for rank in outcome.ranks)
        found[f"recall@{k}"] = recall = hits / outcome.relevant
        found[f"precision@{k}"] = precision = hits / k
        found[f"f1@{k}"] = 2 * precision * recall / (precision + recall) if hits else 0.0
    found["map"] = sum(n / rank for n, rank in enumerate(outcome.ranks, start=1)) / outcome.relevant
    deepest = CUTS[-1]
    gain = sum(1 / math.log2(rank + 1) for rank in outcome.ranks if rank <= deepest)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(outcome.relevant, deepest) + 1))
    found[f"ndcg@{deepest}"] = gain / ideal
    found["exact@10"] = outcome.exact
    return found


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The mean of every measure over at least one outcome."""
    rows = [measures(outcome) for outcome in outcomes]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def intervals(outcomes: Sequence[Outcome], *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The CONFIDENCE interval of every mean, by resampling whole queries."""
    rows = [measures(outcome) for outcome in outcomes]
    values = np.array([list(row.values()) for row in rows])
    rng = np.random.default_rng(seed)
    means = np.stack(
        [values[rng.integers(0, len(values), len(values))].mean(0) for _ in range(RESAMPLES)]
    )
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(rows[0], low, high, strict=True)}


def by_collection(evaluation: Evaluation) -> dict[str, list[Outcome]]:
    """The outcomes whose relevant images lie in each collection, by its name."""
    return {
        collection.name: outcomes
        for collection in evaluation.collections
        if (outcomes := [o for o in evaluation.outcomes if collection.pk in o.collections])
    }


def by_profile(evaluation: Evaluation) -> dict[str, list[Outcome]]:
    """The outcomes whose relevant images were de-identified under each privacy profile."""
    collections: dict[str, set[int]] = defaultdict(set)
    for collection in evaluation.collections:
        collections[collection.profile.name].add(collection.pk)
    return {
        name: outcomes
        for name, ids in collections.items()
        if (outcomes := [o for o in evaluation.outcomes if ids & o.collections])
    }
