from typing import Final

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from ninja.security import HttpBearer

from appliance.web.address import client_address
from retrieval import tokens
from retrieval.models import Purpose, Scope, User

PURPOSE_HEADER: Final = "Purpose-Of-Use"


class PurposeUnclear(Exception):
    """The request names no purpose of use that there is, and its token does not leave just one."""


class ApiRequest(HttpRequest):
    """A request that was let in: in whose name, bound to which token, and what for."""

    auth: User
    purpose: Purpose


class Token(HttpBearer):
    """Lets a request in by its token. A browser's session counts for nothing here."""

    openapi_description = "A token as an administrator issues it: `cloister_…`."

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope
        super().__init__()

    def __call__(self, request: HttpRequest) -> User | None:
        request.user = AnonymousUser()
        found: User | None = super().__call__(request)
        return found

    def authenticate(self, request: HttpRequest, token: str) -> User:
        actor = tokens.let_in(token, address=client_address(request))
        request.user = actor
        purpose = _purpose_of(request, actor)
        tokens.require(actor, self.scope, purpose, route=_route(request))
        request.purpose = purpose  # type: ignore[attr-defined]  # ApiRequest from here on
        return actor


def _purpose_of(request: HttpRequest, actor: User) -> Purpose:
    named = request.headers.get(PURPOSE_HEADER)
    allowed = [] if actor.token is None else actor.token.purposes
    if named is None and len(allowed) == 1:
        return Purpose(allowed[0])
    if named not in Purpose.values:
        raise PurposeUnclear
    return Purpose(named)


def _route(request: HttpRequest) -> str:
    return request.resolver_match.view_name if request.resolver_match else ""
