from typing import Any, Final
from uuid import UUID

from ninja import Field, Router, Schema
from pydantic import ConfigDict

from appliance.api.auth import ApiRequest, Token
from appliance.api.search import Id
from appliance.web.forms import MAX_WORDS
from retrieval import evaluate, tokens
from retrieval.judged import Judged
from retrieval.models import Scope

router = Router(tags=["evaluation"], auth=Token(Scope.SEARCH))

MAX_QUERIES: Final = 50
DIGITS: Final = 4


class JudgedIn(Schema):
    """Words, and the ids of the images that answer them."""

    model_config = ConfigDict(extra="forbid")

    words: str = Field(min_length=1, max_length=MAX_WORDS, pattern=r"[^\s]")
    relevant: list[UUID] = Field(min_length=1, max_length=1000)


class EvaluationIn(Schema):
    """Each different query counts against the day's budget."""

    model_config = ConfigDict(extra="forbid")

    queries: list[JudgedIn] = Field(min_length=1, max_length=MAX_QUERIES)
    collections: list[Id] | None = Field(None, min_length=1, max_length=100)


class EvaluationOut(Schema):
    """`measures`: means over the queries of recall@k, precision@k, f1@k, map, ndcg@10 and what of
    the relevant ids is findable.

    `unknown`: how many of the relevant ids are no image that may be searched.
    """

    model: str
    queries: int
    measures: dict[str, float]
    unknown: int
    audit: int


@router.post("/evaluations", response=EvaluationOut, operation_id="evaluate")
def evaluation(request: ApiRequest, asked: EvaluationIn) -> EvaluationOut:
    """How well the live model answers judged queries, where source names may be seen."""
    judged = [Judged(q.words, frozenset(map(str, q.relevant))) for q in asked.queries]
    tokens.spend_queries(request.auth, len({q.words for q in judged}))
    found = evaluate.evaluate(
        judged, actor=request.auth, purpose=request.purpose, collections=asked.collections
    )
    means: dict[str, Any] = evaluate.summary(found.outcomes)
    return EvaluationOut(
        model=found.encoder.name,
        queries=len(found.outcomes),
        measures={name: round(value, DIGITS) for name, value in means.items()},
        unknown=found.unknown,
        audit=found.audit_number,
    )
