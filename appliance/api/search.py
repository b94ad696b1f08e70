from typing import Final
from uuid import UUID

from django.http import HttpResponse
from ninja import Field, File, Form, Router, Schema
from ninja.files import UploadedFile
from pydantic import ConfigDict
from pydantic import ValidationError as DoesNotFit

from appliance.api.auth import ApiRequest, Token
from appliance.api.problems import problem
from appliance.web.forms import MAX_WORDS
from retrieval import tokens
from retrieval.models import Scope
from retrieval.query import Query
from retrieval.search import MAX_LIMIT, Answer, Hit, search

MAX_IMAGE_BYTES: Final = 20 * 1024 * 1024
MAX_ID: Final = 2**63 - 1

router = Router(tags=["search"], auth=Token(Scope.SEARCH))


class SearchIn(Schema):
    """Words, the id of a stored image, or both; and what it should not show."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [
                {"required": ["words"], "properties": {"words": {"pattern": r"[^\s]"}}},
                {"required": ["like"], "properties": {"like": {"type": "string"}}},
            ]
        },
    )

    words: str = Field("", max_length=MAX_WORDS)
    without: str = Field("", max_length=MAX_WORDS)
    like: UUID | None = None
    collections: list[int] | None = Field(None, min_length=1, max_length=100)
    limit: int = Field(20, ge=1, le=MAX_LIMIT)


class BesideImageIn(Schema):
    query: str = Field("{}", max_length=4096, description="The rest of the query, as JSON.")


class HitOut(Schema):
    """`score`: cosine similarity, rounded. `source`: the file's name, where it may be seen."""

    image: UUID
    collection: str
    score: float
    source: str | None
    starts_at_s: float | None
    ends_at_s: float | None


class AnswerOut(Schema):
    """`audit`: the number of this search's entry in the log."""

    hits: list[HitOut]
    audit: int


@router.post("/search", response=AnswerOut, operation_id="search")
def search_images(request: ApiRequest, asked: SearchIn) -> AnswerOut | HttpResponse:
    """The images nearest to the query, nearest first."""
    if not (asked.words.strip() or asked.like):
        return problem(422, "A query needs words or the id of an image.")
    return _answer(request, asked, b"")


@router.post("/search/image", response=AnswerOut, operation_id="search_by_image")
def search_by_image(
    request: ApiRequest,
    image: File[UploadedFile],
    form: Form[BesideImageIn],
) -> AnswerOut | HttpResponse:
    """The images nearest to an example, which is de-identified before a model reads it."""
    try:
        asked = SearchIn.model_validate_json(form.query)
    except DoesNotFit:
        return problem(422, "The form's `query` is no query.")
    if (image.size or 0) > MAX_IMAGE_BYTES:
        return problem(413, f"A query image may have up to {MAX_IMAGE_BYTES} bytes.")
    content = image.read()
    if not content:
        return problem(422, "The query image is empty.")
    return _answer(request, asked, content)


def _answer(request: ApiRequest, asked: SearchIn, image: bytes) -> AnswerOut | HttpResponse:
    tokens.spend_queries(request.auth)
    query = Query(
        words=asked.words,
        without=asked.without,
        like=asked.like,
        image=image,
        collections=asked.collections,
    )
    try:
        return answer_out(
            search(query, actor=request.auth, purpose=request.purpose, limit=asked.limit)
        )
    except ValueError:
        return problem(422, "What is wanted and what is not wanted cancel each other out.")


def answer_out(answer: Answer) -> AnswerOut:
    return AnswerOut(hits=[hit_out(hit) for hit in answer.hits], audit=answer.audit_number)


def hit_out(hit: Hit) -> HitOut:
    return HitOut(
        image=hit.image_id,
        collection=hit.collection,
        score=hit.score,
        source=hit.source,
        starts_at_s=hit.time.start_s if hit.time else None,
        ends_at_s=hit.time.end_s if hit.time else None,
    )
