import hashlib
from typing import Any
from uuid import UUID

from django.http import HttpResponse, HttpResponseNotModified
from django.utils.http import parse_etags
from ninja import Field, Query, Router, Schema

from appliance.api.auth import ApiRequest, Token
from appliance.api.search import AnswerOut, answer_out
from appliance.web.views.image import jpeg
from retrieval import look, tokens
from retrieval import query as query_of
from retrieval import search as domain
from retrieval.models import Scope
from retrieval.search import MAX_LIMIT
from retrieval.storage import Form

router = Router(tags=["images"])

JPEG: dict[str, Any] = {
    "responses": {
        200: {
            "description": "A JPEG.",
            "headers": {"ETag": {"schema": {"type": "string"}}},
            "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "It is as the ETag in If-None-Match says."},
    },
    "parameters": [
        {"in": "header", "name": "If-None-Match", "required": False, "schema": {"type": "string"}}
    ],
}


class ImageOut(Schema):
    """`reason`: why it waits for a person or was rejected; empty where neither is so. `tags`: set
    by people; `automatic_tags`: by the live encoder."""

    image: UUID
    collection: int
    state: str
    reason: str
    media_type: str
    width: int | None
    height: int | None
    source: str | None
    tags: list[str]
    automatic_tags: list[str]
    audit: int


class SimilarIn(Schema):
    limit: int = Field(20, ge=1, le=MAX_LIMIT)


@router.get(
    "/images/{uuid:image_id}",
    response=ImageOut,
    auth=Token(Scope.STATUS),
    operation_id="image_status",
)
def image_status(request: ApiRequest, image_id: UUID) -> ImageOut:
    """Where an image is on its way. Before it is indexed, only who hands in images learns it."""
    seen = look.look_at_status(image_id, actor=request.auth, purpose=request.purpose)
    return ImageOut(
        image=seen.image.pk,
        collection=seen.image.collection_id,
        state=seen.image.state,
        reason=seen.image.reason,
        media_type=seen.image.media_type,
        width=seen.image.width,
        height=seen.image.height,
        source=seen.source,
        tags=seen.image.tags,
        automatic_tags=list(seen.automatic_tags),
        audit=seen.audit_number,
    )


@router.get(
    "/images/{uuid:image_id}/preview",
    auth=Token(Scope.SEARCH),
    operation_id="preview",
    openapi_extra=JPEG,
)
def preview(request: ApiRequest, image_id: UUID) -> HttpResponse:
    """The de-identified picture. A look is on the log even where nothing has changed (304)."""
    return _picture(request, image_id, Form.PREVIEW)


@router.get(
    "/images/{uuid:image_id}/thumbnail",
    auth=Token(Scope.SEARCH),
    operation_id="thumbnail",
    openapi_extra=JPEG,
)
def thumbnail(request: ApiRequest, image_id: UUID) -> HttpResponse:
    """The de-identified picture, small."""
    return _picture(request, image_id, Form.THUMBNAIL)


@router.get(
    "/images/{uuid:image_id}/similar",
    response=AnswerOut,
    auth=Token(Scope.SEARCH),
    operation_id="similar",
)
def similar(request: ApiRequest, image_id: UUID, asked: Query[SimilarIn]) -> AnswerOut:
    """The images nearest to a stored one, itself first."""
    tokens.spend_queries(request.auth)
    query = query_of.Query(like=image_id)
    return answer_out(
        domain.search(query, actor=request.auth, purpose=request.purpose, limit=asked.limit)
    )


@router.get(
    "/images/{uuid:image_id}/duplicates",
    response=AnswerOut,
    auth=Token(Scope.SEARCH),
    operation_id="duplicates",
)
def duplicates(request: ApiRequest, image_id: UUID, asked: Query[SimilarIn]) -> AnswerOut:
    """The images that show the same as a stored one, without itself."""
    tokens.spend_queries(request.auth)
    return answer_out(
        domain.near_duplicates(
            image_id, actor=request.auth, purpose=request.purpose, limit=asked.limit
        )
    )


def _picture(request: ApiRequest, image_id: UUID, form: Form) -> HttpResponse:
    content = look.picture(image_id, form, actor=request.auth, purpose=request.purpose)
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    known = parse_etags(request.headers.get("If-None-Match", ""))
    is_known = any(tag == other.removeprefix("W/") for other in known)
    response = HttpResponseNotModified() if is_known else jpeg(content)
    # Kept by the program, asked for each time: a right that ended ends here, too.
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["ETag"] = tag
    return response
