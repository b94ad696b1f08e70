from datetime import date
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from django.http import HttpResponse
from ninja import Field, File, Form, Router, Schema
from ninja.files import UploadedFile
from pydantic import BaseModel, ConfigDict
from pydantic import ValidationError as DoesNotFit

from appliance.api.auth import ApiRequest, Token
from appliance.api.problems import problem
from appliance.web.forms import MAX_WORDS
from retrieval import tokens
from retrieval.index import EVERYTHING, Filter, Metric
from retrieval.models import Scope
from retrieval.models.image import Region
from retrieval.query import (
    MAX_CHOICES,
    MAX_FEEDBACK,
    MAX_PARTS,
    MAX_WEIGHT,
    Fusion,
    Group,
    LookIn,
    Part,
    Query,
)
from retrieval.search import MAX_LIMIT, Answer, FoundIn, Hit, search

MAX_IMAGE_BYTES: Final = 20 * 1024 * 1024
MAX_ID: Final = 2**63 - 1
MAX_SIDE: Final = 2**31 - 1
Id = Annotated[int, Field(ge=1, le=MAX_ID)]
Code = Annotated[str, Field(min_length=1, max_length=100, pattern="^[^\\x00]*$")]

router = Router(tags=["search"], auth=Token(Scope.SEARCH))


class RegionIn(Schema):
    """A rectangle in pixels of the upright picture, from its upper left corner."""

    model_config = ConfigDict(extra="forbid")

    x: int = Field(ge=0, le=MAX_SIDE)
    y: int = Field(ge=0, le=MAX_SIDE)
    w: int = Field(ge=1, le=MAX_SIDE)
    h: int = Field(ge=1, le=MAX_SIDE)

    def region(self) -> Region:
        return Region(self.x, self.y, self.w, self.h)


class PartIn(Schema):
    """Words, or a stored image or a part of it; below 0, what to be far from."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["words"],
                    "properties": {
                        "words": {"type": "string"},
                        "like": {"type": "null"},
                        "region": {"type": "null"},
                    },
                },
                {
                    "required": ["like"],
                    "properties": {"words": {"type": "null"}, "like": {"type": "string"}},
                },
            ]
        },
    )

    words: str | None = Field(None, max_length=MAX_WORDS, pattern=r"[^\s]")
    like: UUID | None = None
    region: RegionIn | None = None
    weight: float = Field(
        1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, json_schema_extra={"not": {"const": 0}}
    )

    def part(self) -> Part:
        region = self.region.region() if self.region else None
        return Part(words=self.words or "", like=self.like, region=region, weight=self.weight)


class WhereIn(Schema):
    """What a found image must also be. Days are inclusive; of a list, one; of tags, all.
    `tags` are set by people or by the encoder, `peoples_tags` by people."""

    model_config = ConfigDict(extra="forbid")

    taken_from: date | None = None
    taken_until: date | None = None
    received_from: date | None = None
    received_until: date | None = None
    media_types: list[Code] = Field([], max_length=MAX_CHOICES)
    modalities: list[Code] = Field([], max_length=MAX_CHOICES)
    subjects: list[Id] = Field([], max_length=MAX_CHOICES)
    tags: list[Code] = Field([], max_length=MAX_CHOICES)
    peoples_tags: list[Code] = Field([], max_length=MAX_CHOICES)

    def filter(self) -> Filter:
        return Filter(
            taken_from=self.taken_from,
            taken_until=self.taken_until,
            received_from=self.received_from,
            received_until=self.received_until,
            media_types=tuple(self.media_types),
            modalities=tuple(self.modalities),
            subjects=tuple(self.subjects),
            tags=tuple(self.tags),
            peoples_tags=tuple(self.peoples_tags),
        )


class MetricIn(StrEnum):
    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    INNER_PRODUCT = "inner_product"
    MANHATTAN = "manhattan"


class QueryIn(Schema):
    """What is wanted: words, a stored image (`like`), images judged good (`liked`), further
    `parts`, or a mix. `region`: of the example image, or of `like`. `without`: words for what it
    should not show. `diversity`: 0, nearest first, to 1. `group`: of each, the nearest alone.
    `look_in`: what words are held against, pictures or the reports that came with them."""

    model_config = ConfigDict(extra="forbid")

    words: str = Field("", max_length=MAX_WORDS)
    without: str = Field("", max_length=MAX_WORDS)
    like: UUID | None = None
    region: RegionIn | None = None
    parts: list[PartIn] = Field([], max_length=MAX_PARTS - 4)
    liked: list[UUID] = Field([], max_length=MAX_FEEDBACK // 2)
    disliked: list[UUID] = Field([], max_length=MAX_FEEDBACK // 2)
    collections: list[Id] | None = Field(None, min_length=1, max_length=100)
    where: WhereIn | None = None
    metric: MetricIn = MetricIn.COSINE
    fusion: Fusion = Fusion.SPACE
    diversity: float = Field(0.0, ge=0.0, le=1.0)
    group: Group | None = None
    look_in: LookIn = LookIn.BOTH
    limit: int = Field(20, ge=1, le=MAX_LIMIT)

    def query(self, image: bytes) -> Query:
        """Raises ValueError for a mix that is no query."""
        return Query(
            words=self.words,
            image=image,
            like=self.like,
            without=self.without,
            collections=self.collections,
            region=self.region.region() if self.region else None,
            parts=tuple(part.part() for part in self.parts),
            liked=tuple(self.liked),
            disliked=tuple(self.disliked),
            where=self.where.filter() if self.where else EVERYTHING,
            metric=Metric[self.metric.name],
            fusion=self.fusion,
            diversity=self.diversity,
            group=self.group,
            look_in=self.look_in,
        )


class SearchIn(QueryIn):
    """A query without an example image: words or a stored image it must have."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "required": ["words"],
                    "properties": {
                        "words": {"type": "string", "pattern": r"[^\s]"},
                        "region": {"type": "null"},
                    },
                },
                {"required": ["like"], "properties": {"like": {"type": "string"}}},
            ]
        },
    )


class BesideImageIn(Schema):
    """`query`: a QueryIn as JSON, as OpenAPI sends an object within a form."""

    query: str = Field("{}", max_length=65_536)


# No ninja schema: each of its fields is looked up as if the value were a row of the database.
class HitOut(BaseModel):
    """`score`: cosine similarity, or where rankings are fused how high it ranks, up to 1; rounded.
    `source`: the file's name, where it may be seen.
    `region`: x, y, width and height of the part it was found by. `found_in`: the picture, or the
    report that came with it, of which nothing is told."""

    image: UUID
    collection: str
    score: float
    source: str | None
    region: list[int] | None
    found_in: FoundIn
    starts_at_s: float | None
    ends_at_s: float | None


class AnswerOut(BaseModel):
    """`audit`: the number of this search's entry in the log. `confident`: whether the nearest
    stands out from what else there is; null where that cannot be told."""

    hits: list[HitOut]
    audit: int
    confident: bool | None


@router.post("/search", response=AnswerOut, operation_id="search")
def search_images(request: ApiRequest, asked: SearchIn) -> AnswerOut | HttpResponse:
    """The images nearest to the query, nearest first."""
    return _answer(request, asked, b"")


@router.post("/search/image", response=AnswerOut, operation_id="search_by_image")
def search_by_image(
    request: ApiRequest,
    image: File[UploadedFile],
    form: Form[BesideImageIn],
) -> AnswerOut | HttpResponse:
    """The images nearest to an example, which is de-identified before a model reads it."""
    try:
        asked = QueryIn.model_validate_json(form.query)
    except DoesNotFit:
        return problem(422, "The form's `query` is no query.")
    if (image.size or 0) > MAX_IMAGE_BYTES:
        return problem(413, f"A query image may have up to {MAX_IMAGE_BYTES} bytes.")
    content = image.read()
    if not content:
        return problem(422, "The query image is empty.")
    return _answer(request, asked, content)


def _answer(request: ApiRequest, asked: QueryIn, image: bytes) -> AnswerOut | HttpResponse:
    try:
        query = asked.query(image)
        tokens.spend_queries(request.auth)
        return answer_out(
            search(query, actor=request.auth, purpose=request.purpose, limit=asked.limit)
        )
    except ValueError:
        return problem(422, "This is no query: what is wanted is missing, or cancels itself out.")


def answer_out(answer: Answer) -> AnswerOut:
    return AnswerOut(
        hits=[hit_out(hit) for hit in answer.hits],
        audit=answer.audit_number,
        confident=answer.confident,
    )


def hit_out(hit: Hit) -> HitOut:
    return HitOut(
        image=hit.image_id,
        collection=hit.collection,
        score=hit.score,
        source=hit.source,
        region=None
        if hit.region is None
        else [hit.region.x, hit.region.y, hit.region.w, hit.region.h],
        found_in=hit.found_in,
        starts_at_s=hit.time.start_s if hit.time else None,
        ends_at_s=hit.time.end_s if hit.time else None,
    )
