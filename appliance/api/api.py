"""The routes, and what becomes of errors: one problem document for each kind."""

import logging
from typing import Any, Final

from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from ninja.errors import AuthenticationError, HttpError, ValidationError

from appliance.api import collections, evaluation, events, images, ingest, jobs, search, token
from appliance.api.auth import PurposeUnclear
from appliance.api.document import DESCRIPTION, CloisterAPI, Docs
from appliance.api.paging import CursorUnreadable
from appliance.api.problems import CHALLENGE, problem
from appliance.web.views import errors
from retrieval.errors import (
    AccessDenied,
    AuditUnavailable,
    EncoderUnavailable,
    KeyReused,
    LimitReached,
    NeedsReview,
    NoTextTower,
    OutOfStep,
    Rejected,
    ScopeMissing,
    SearchTooSlow,
    ServicesUnavailable,
    StillWorking,
    StorageCorrupt,
    TokenRefused,
)

log = logging.getLogger("cloister.api")

api = CloisterAPI(
    title="Cloister", version="1", description=DESCRIPTION, urls_namespace="api", docs=Docs()
)
api.add_router("", search.router)
api.add_router("", images.router)
api.add_router("", collections.router)
api.add_router("", ingest.router)
api.add_router("", jobs.router)
api.add_router("", evaluation.router)
api.add_router("", events.router)
api.add_router("", token.router)

CANNOT_ANSWER: Final = (
    OperationalError,
    InterfaceError,
    AuditUnavailable,
    ServicesUnavailable,
    EncoderUnavailable,
    StorageCorrupt,
)


@api.exception_handler(TokenRefused)
@api.exception_handler(AuthenticationError)
def _stranger(_request: HttpRequest, _error: Exception) -> HttpResponse:
    return problem(401, "A token is needed that holds now.", headers=CHALLENGE)


@api.exception_handler(ScopeMissing)
def _not_for_this(_request: HttpRequest, error: ScopeMissing) -> HttpResponse:
    return problem(403, f"The token is not for this {error}.")


@api.exception_handler(LimitReached)
def _too_often(_request: HttpRequest, error: LimitReached) -> HttpResponse:
    wait = {"Retry-After": str(error.retry_after_s)}
    return problem(429, "The token has asked as much as it may for now.", headers=wait)


@api.exception_handler(AccessDenied)
@api.exception_handler(Http404)
def _nothing_there(request: HttpRequest, _error: Exception) -> HttpResponse:
    return errors.not_found(request)


@api.exception_handler(Rejected)
@api.exception_handler(NeedsReview)
def _unusable_image(_request: HttpRequest, error: Rejected | NeedsReview) -> HttpResponse:
    return problem(422, "The image cannot be used.", reason=error.reason.value)


@api.exception_handler(NoTextTower)
def _words_not_read(_request: HttpRequest, _error: NoTextTower) -> HttpResponse:
    sentence = "The encoder in use reads images only: search with an image."
    return problem(422, sentence, reason="no_text_tower")


@api.exception_handler(SearchTooSlow)
def _too_slow(_request: HttpRequest, _error: SearchTooSlow) -> HttpResponse:
    sentence = "The search took too long: name fewer collections, or narrow it down."
    return problem(503, sentence, headers=errors.TRY_AGAIN, reason="too_slow")


@api.exception_handler(OutOfStep)
def _out_of_step(_request: HttpRequest, error: OutOfStep) -> HttpResponse:
    so_far = {"Upload-Offset": str(error.received)}
    return problem(409, "That part is not the next one.", headers=so_far, received=error.received)


@api.exception_handler(StillWorking)
def _still_working(_request: HttpRequest, _error: Exception) -> HttpResponse:
    return problem(409, "The same request is being worked on.", headers={"Retry-After": "5"})


@api.exception_handler(KeyReused)
def _key_reused(_request: HttpRequest, _error: Exception) -> HttpResponse:
    return problem(422, "That idempotency key came with another request.")


@api.exception_handler(PurposeUnclear)
def _what_for(_request: HttpRequest, _error: PurposeUnclear) -> HttpResponse:
    return problem(400, "Say what for: the header Purpose-Of-Use takes one of its codes.")


@api.exception_handler(CursorUnreadable)
def _no_such_page(_request: HttpRequest, _error: CursorUnreadable) -> HttpResponse:
    return problem(422, "That cursor is not one of this list's.")


@api.exception_handler(ValidationError)
def _does_not_fit(_request: HttpRequest, error: ValidationError) -> HttpResponse:
    return problem(422, "The request does not fit.", errors=_places(error.errors))


def _places(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Where and why, without pydantic's message: it may quote what was sent."""
    return [{"where": ".".join(map(str, e["loc"])), "code": str(e["type"])} for e in found]


@api.exception_handler(HttpError)
def _http(_request: HttpRequest, error: HttpError) -> HttpResponse:
    return problem(error.status_code, "The request could not be read.")


def _unavailable(request: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
    # The class only: a database's message may quote what was asked for.
    log.error("no answer: %s", type(error).__name__)
    return errors.unavailable(request)


for kind in CANNOT_ANSWER:
    api.add_exception_handler(kind, _unavailable)
