"""How well search finds what it should: rankings against judged queries.

Measures: Manning, Raghavan & Schütze 2008, "Introduction to Information Retrieval", chapter 8;
nDCG with binary gains, Järvelin & Kekäläinen 2002. Intervals: percentile bootstrap over queries,
Efron & Tibshirani 1993, chapter 13.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np

from retrieval import access, audit, confidence, index, probes, queue, storage
from retrieval.errors import AccessDenied, EncoderUnavailable
from retrieval.judged import Judged, Known, Place, is_id
from retrieval.models import (
    Collection,
    EncoderVersion,
    Image,
    Kind,
    PrivacyProfile,
    Purpose,
    State,
    User,
)
from retrieval.models.grant import Capability

DEPTH = 100
"""Ranks that are looked at. MAP and nDCG see nothing beyond."""
CUTS = (1, 5, 10)
ENCODED_TOGETHER = 64
RESAMPLES = 1000
CONFIDENCE = 0.95
EARLIER_RULES = "earlier rules"
"""Of images that no present profile's rules were applied to."""
IS_CONFIDENT, AT_CUT_OFF = "confident", "precision@cut-off"


@dataclass(frozen=True)
class Outcome:
    """One query's ranking, held against what is relevant.

    `ranks`: 1-based ranks of the relevant images among the first DEPTH. `relevant`: how many
    there are, those that cannot be found included; `findable`: without those. `exact`: the share
    of the ten exactly nearest images that are among the first ten. `collections`: where the
    relevant ones lie, and `rules`: digests of those they were de-identified by. `confident`:
    whether the first stands out, see `retrieval.confidence`.
    """

    ranks: tuple[int, ...]
    relevant: int
    findable: int
    exact: float = 1.0
    collections: frozenset[int] = frozenset()
    rules: frozenset[str] = frozenset()
    confident: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an encoder found for one who may search.

    `unknown`: how many relevant names and ids no searchable image has; `unknown_lines`: those of
    the queries that name one. `profiles`: names of privacy profiles, by the digest of their rules.
    """

    encoder: EncoderVersion
    outcomes: list[Outcome]
    collections: list[Collection]
    profiles: dict[str, str]
    unknown: int
    unknown_lines: list[int]
    audit_number: int


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
    by_name = any(not is_id(name) for query in queries for name in query.relevant)
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
    answers = [known.answers(query) for query in queries]
    number = audit.record(
        Kind.SEARCH_EVALUATED,
        actor=actor,
        purpose=purpose,
        collections=[str(c.pk) for c in permitted],
        encoder=encoder.pk,
        queries=len(queries),
    )
    unknown = [{name for name, images in each.items() if not images} for each in answers]
    return Evaluation(
        encoder=encoder,
        outcomes=[
            _outcome(each.values(), rankings[query.words])
            for query, each in zip(queries, answers, strict=True)
        ],
        collections=permitted,
        profiles=_profiles(permitted),
        unknown=len(set().union(*unknown)),
        unknown_lines=[q.line for q, names in zip(queries, unknown, strict=True) if names],
        audit_number=number,
    )


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


def _known(within: Sequence[int], *, by_name: bool) -> Known:
    """What may be found, by id, and `by_name` by source names as well."""
    images = Image.objects.filter(state=State.INDEXED, collection__in=within)
    if not by_name:
        rows = images.values_list("pk", "collection_id", "rules_digest")
        return Known((Place(*row), "") for row in rows)
    sealed = images.only("collection_id", "rules_digest", "wrapped_key", "sealed_name").iterator()
    return Known(
        (Place(image.pk, image.collection_id, image.rules_digest), storage.source_name(image))
        for image in sealed
    )


def _profiles(collections: Sequence[Collection]) -> dict[str, str]:
    """Where profiles have the same rules, those of `collections` lend them their name."""
    profiles = [*PrivacyProfile.objects.order_by("name"), *(c.profile for c in collections)]
    return {profile.rules_digest: profile.name for profile in profiles}


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
    ids = {n.image_id for n in exact}
    # Nothing, where all of them were erased since.
    last = exact[-1].distance if exact else -math.inf
    # As near as the last of the exact ones is as right as it.
    agreed = sum(n.image_id in ids or n.distance <= last for n in near[: CUTS[-1]])
    return Ranking(
        [n.image_id for n in sorted(near, key=lambda n: (n.distance, n.image_id))],
        agreed / len(exact) if exact else 1.0,
        confidence.stands_out(near[0], vector, other_words, within=within, encoder=encoder)
        if near
        else None,
    )


def _outcome(answers: Iterable[frozenset[Place]], ranking: Ranking) -> Outcome:
    """A name that several images bear is satisfied by the first of them, and names of one image
    are one."""
    rank_of = {image_id: rank for rank, image_id in enumerate(ranking.found, start=1)}
    known, unknown = _apart(answers)
    best = (min(rank_of.get(p.image_id, 0) or DEPTH + 1 for p in images) for images in known)
    places = frozenset[Place]().union(*known)
    return Outcome(
        ranks=tuple(sorted(rank for rank in best if rank <= DEPTH)),
        relevant=len(known) + unknown,
        findable=len(known),
        exact=ranking.exact,
        collections=frozenset(place.collection_id for place in places),
        rules=frozenset(place.rules_digest for place in places),
        confident=ranking.confident,
    )


def _apart(answers: Iterable[frozenset[Place]]) -> tuple[list[frozenset[Place]], int]:
    """Sets of images without any in common, and how many were empty."""
    apart: list[frozenset[Place]] = []
    unknown = 0
    for images in answers:
        unknown += not images
        same = [other for other in apart if other & images]
        apart = [other for other in apart if not other & images]
        if images:
            apart.append(images.union(*same))
    return apart, unknown


def measures(outcome: Outcome) -> dict[str, float]:
    """All measures of one query, each in [0, 1].

    `findable`: what recall could be at most, since the rest is no searchable image.
    """
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
    found["findable"] = outcome.findable / outcome.relevant
    found["exact@10"] = outcome.exact
    return found


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The mean of every measure over at least one outcome.

    Where it is known of any which first images stand out, also the share of the queries with one
    (`confident`) and their precision at 1 (`precision@cut-off`), 0 where there are none.
    """
    names, rows = _measured(outcomes)
    return dict(zip(names, _means(names, rows.mean(0)[np.newaxis])[0].tolist(), strict=True))


def intervals(outcomes: Sequence[Outcome], *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The CONFIDENCE interval of every mean, by resampling whole queries."""
    names, rows = _measured(outcomes)
    count, rng = len(rows), np.random.default_rng(seed)
    drawn = (
        np.bincount(rng.integers(0, count, count), minlength=count) @ rows / count
        for _ in range(RESAMPLES)
    )
    means = _means(names, np.stack(list(drawn)))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _measured(outcomes: Sequence[Outcome]) -> tuple[list[str], np.ndarray]:
    """Names of measures, and their values: (outcomes, measures) float64.

    The last two are there where any outcome knows: whether its first image stands out, and whether
    that is right as well.
    """
    rows = [measures(outcome) for outcome in outcomes]
    names, values = list(rows[0]), np.array([list(row.values()) for row in rows])
    if all(outcome.confident is None for outcome in outcomes):
        return names, values
    confident = np.array([bool(outcome.confident) for outcome in outcomes])
    right = confident & np.array([1 in outcome.ranks for outcome in outcomes])
    return [*names, IS_CONFIDENT, AT_CUT_OFF], np.column_stack([values, confident, right])


def _means(names: Sequence[str], means: np.ndarray) -> np.ndarray:
    """Means of what `_measured` names, (n, measures), with precision at the cut-off made of its
    two: those that are right, of those that stand out."""
    if names[-1] == AT_CUT_OFF:
        confident, right = means[:, -2], means[:, -1]
        means[:, -1] = np.divide(right, confident, out=np.zeros(len(means)), where=confident > 0)
    return means


def of_findable(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """As if only that were relevant which may be found; without the queries for nothing else."""
    return [replace(o, relevant=o.findable) for o in outcomes if o.findable]


def by_collection(evaluation: Evaluation) -> dict[str, list[Outcome]]:
    """The outcomes whose relevant images lie in each collection, by its name."""
    names = {collection.pk: collection.name for collection in evaluation.collections}
    return _grouped(evaluation.outcomes, lambda outcome: {names[c] for c in outcome.collections})


def by_profile(evaluation: Evaluation) -> dict[str, list[Outcome]]:
    """The outcomes whose relevant images were de-identified by the rules of each privacy profile.

    An image keeps to the rules it came under when its collection or its profile is changed.
    """
    names = evaluation.profiles
    return _grouped(
        evaluation.outcomes,
        lambda outcome: {names.get(digest, EARLIER_RULES) for digest in outcome.rules},
    )


def _grouped(
    outcomes: Iterable[Outcome], groups_of: Callable[[Outcome], set[str]]
) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        for group in groups_of(outcome):
            found[group].append(outcome)
    return dict(sorted(found.items()))
