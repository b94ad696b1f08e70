from datetime import UTC, datetime, timedelta

from ninja import Field, Router, Schema
from pydantic import ConfigDict

from appliance.api.auth import ApiRequest, Token
from retrieval import tokens
from retrieval.errors import TokenRefused
from retrieval.models import ApiToken, Purpose, Scope, TokenUse
from retrieval.tokens import MAX_OVERLAP

router = Router(tags=["token"])


class TokenOut(Schema):
    """The token of the request: what it is for, and what is left of its limits today."""

    token: int
    scopes: list[Scope]
    collections: list[int]
    purposes: list[Purpose]
    expires_at: datetime
    per_minute: int
    queries_per_day: int
    queries_left: int


class RotationIn(Schema):
    model_config = ConfigDict(extra="forbid")

    overlap_s: int = Field(
        0, ge=0, le=int(MAX_OVERLAP.total_seconds()), description="How long this token still holds."
    )


class RotationOut(Schema):
    """`text` is the new token. It is told this once."""

    token: int
    text: str
    expires_at: datetime


@router.get("/token", response=TokenOut, auth=Token(None), operation_id="own_token")
def own_token(request: ApiRequest) -> TokenOut:
    token = _token_of(request)
    use = TokenUse.objects.get(series=token.series)
    spent = use.queries if use.day == datetime.now(UTC).date() else 0
    return TokenOut(
        token=token.pk,
        scopes=[Scope(scope) for scope in token.scopes],
        collections=token.collections,
        purposes=[Purpose(purpose) for purpose in token.purposes],
        expires_at=token.expires_at,
        per_minute=token.per_minute,
        queries_per_day=token.queries_per_day,
        queries_left=max(token.queries_per_day - spent, 0),
    )


@router.post(
    "/token/rotate", response=RotationOut, auth=Token(Scope.ADMIN_TOKENS), operation_id="rotate"
)
def rotate(request: ApiRequest, asked: RotationIn) -> RotationOut:
    """A successor that may what this token may, for as long a life."""
    successor, text = tokens.rotate(
        _token_of(request), overlap=timedelta(seconds=asked.overlap_s), rotated_by=request.auth
    )
    return RotationOut(token=successor.pk, text=text, expires_at=successor.expires_at)


def _token_of(request: ApiRequest) -> ApiToken:
    if request.auth.token is None:
        raise TokenRefused("the request was let in without a token")
    return request.auth.token
