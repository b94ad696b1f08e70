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

from retrieval import access, audit, confidence, index, probes, queue, storage
from retrieval.errors import AccessDenied, EncoderUnavailable, QueriesUnreadable
from retrieval.models import Collection, EncoderVersion, Image, Kind, Purpose, State, User
from retrieval.models.grant import Capability

DEPTH = 100
"""Ranks that are looked at. MAP and nDCG see nothing beyond."""
CUTS = (1, 5, 10)
ENCODED_TOGETHER = 64
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
    images that are among the first ten. `collections`: where the relevant ones lie. `confident`:
    whether the first stands out, see `retrieval.confidence`.
    """

    ranks: tuple[int, ...]
    relevant: int
    exact: float
    collections: frozenset[int]
    confident: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an encoder found for one who may search.

    `unknown`: how many relevant names and ids no searchable image has.
    """

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
    model: str = "",
) -> Evaluation:
    """Rank what `actor` may search for every query, and record it once, before anything is told.

    model: an encoder's name, to measure one before it goes live; empty for the live one. An image
    that is not searchable, or not for this actor, counts as not found. Raises AccessDenied unless
    the actor may search and, where file names say what is relevant, see them. Raises
    EncoderUnavailable (transient); LimitReached for a program that asks nearly the same again and
    again.
    """
    permitted = [
        collection
        for collection in access.collections_where(actor, purpose, Capability.SEARCH)
        if collections is None or collection.pk in collections
    ]
    named = access.collections_where(actor, purpose, Capability.SEE_SOURCE_NAMES)
    by_name = any(not _is_id(name) for query in queries for name in query.relevant)
    if not permitted or (by_name and not {c.pk for c in permitted} <= {c.pk for c in named}):
        audit.record(Kind.SEARCH_DENIED, actor=actor, purpose=purpose, evaluation=True)
        raise AccessDenied(f"user {actor.pk} may not evaluate there")
    encoder = index.encoder_named(model) if model else index.live_encoder()
    others = confidence.other_words(encoder.name)
    vectors = _encode(sorted({query.words for query in queries}), actor, encoder)
    for vector in vectors.values():
        probes.watch(vector, actor=actor, purpose=purpose)
    within = [collection.pk for collection in permitted]
    with access.acting_as(actor, purpose):
        known = _known(within, by_name=by_name)
        rankings = {
            words: _rank(vector, others, within=within, encoder=encoder)
            for words, vector in vectors.items()
        }
    outcomes = [_outcome(query, rankings[query.words], known=known) for query in queries]
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


def _encode(words: Sequence[str], actor: User, encoder: EncoderVersion) -> dict[str, np.ndarray]:
    vectors: dict[str, np.ndarray] = {}
    for start in range(0, len(words), ENCODED_TOGETHER):
        batch = words[start : start + ENCODED_TOGETHER]
        found = queue.encode_query(
            [queue.ToEncode(words=each) for each in batch], asker=actor.pk, encoder=encoder.name
        )
        if found.encoder != encoder.name:
            raise EncoderUnavailable("the live encoder changed while the queries were encoded")
        vectors |= dict(zip(batch, found.vectors, strict=True))
    return vectors


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _known(within: Sequence[int], *, by_name: bool) -> dict[str, frozenset[tuple[UUID, int]]]:
    """From an id, and `by_name` from a source name and its last part, to the images it may mean."""
    found: dict[str, set[tuple[UUID, int]]] = defaultdict(set)
    for image in Image.objects.filter(state=State.INDEXED, collection__in=within).iterator():
        name = storage.source_name(image) if by_name else ""
        for key in {str(image.pk), name, PurePosixPath(name).name} - {""}:
            found[key].add((image.pk, image.collection_id))
    return {key: frozenset(images) for key, images in found.items()}


@dataclass(frozen=True)
class Ranking:
    """The first DEPTH images; see Outcome for the rest."""

    found: list[UUID]
    exact: float
    confident: bool | None


def _rank(
    vector: np.ndarray,
    other_words: Sequence[np.ndarray],
    *,
    within: Sequence[int],
    encoder: EncoderVersion,
) -> Ranking:
    near, exact = (
        index.nearest(vector, within=within, encoder=encoder, limit=limit, exact=exactly)
        for limit, exactly in ((DEPTH, False), (CUTS[-1], True))
    )
    agreed = {n.image_id for n in exact} & {n.image_id for n in near[: CUTS[-1]]}
    return Ranking(
        [n.image_id for n in near],
        len(agreed) / len(exact) if exact else 1.0,
        confidence.stands_out(near[0], vector, other_words, within=within, encoder=encoder)
        if near
        else None,
    )


def _outcome(
    query: Judged,
    ranking: Ranking,
    *,
    known: Mapping[str, frozenset[tuple[UUID, int]]],
) -> Outcome:
    """A name that several images bear is satisfied by the first of them."""
    rank_of = {image_id: rank for rank, image_id in enumerate(ranking.found, start=1)}
    ranks, collections = [], set()
    for name in query.relevant:
        images = known.get(name, frozenset())
        collections |= {collection for _, collection in images}
        if best := min((rank_of[i] for i, _ in images if i in rank_of), default=0):
            ranks.append(best)
    return Outcome(
        tuple(sorted(ranks)),
        len(query.relevant),
        ranking.exact,
        frozenset(collections),
        ranking.confident,
    )


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
    """The mean of every measure over at least one outcome.

    Where it is known of any which first images stand out, also the share of the queries with one
    (`confident`) and their precision at 1 (`precision@cut-off`), 0 where there are none.
    """
    rows = [measures(outcome) for outcome in outcomes]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if all(outcome.confident is None for outcome in outcomes):
        return means
    first_is_right = [1 in outcome.ranks for outcome in outcomes if outcome.confident]
    precision = float(np.mean(first_is_right)) if first_is_right else 0.0
    return means | {
        "confident": len(first_is_right) / len(outcomes),
        "precision@cut-off": precision,
    }


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
