"""What every answer passes through."""

import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from csp.constants import UNSAFE_EVAL, UNSAFE_INLINE
from csp.decorators import csp_update
from django.conf import settings
from django.contrib.auth import logout
from django.db import DatabaseError, InterfaceError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import urlencode
from django_htmx.http import HttpResponseClientRedirect

from appliance.directory import accounts, ldap
from appliance.web import second_factor, sessions
from appliance.web.views import errors
from retrieval import audit
from retrieval import second_factor as factors
from retrieval.errors import (
    AccessDenied,
    AuditUnavailable,
    EncoderUnavailable,
    ServicesUnavailable,
    StorageCorrupt,
)
from retrieval.models import Kind, User, holds_on
from retrieval.models.user import Directory

log = logging.getLogger("cloister.web")

GetResponse = Callable[[HttpRequest], HttpResponseBase]

MAX_FORM_BYTES: Final = 21 * 1024 * 1024
"""What a page may send: a query image of 20 MiB and its form. The API has its own limit."""

CANNOT_ANSWER = (
    DatabaseError,
    InterfaceError,
    AuditUnavailable,
    ServicesUnavailable,
    EncoderUnavailable,
    StorageCorrupt,
)


class AdminPolicyMiddleware:
    """The one relaxation of the content security policy, for the administration's pages only.

    django-unfold's menus, tabs and dialogs are Alpine.js expressions in attributes, which
    Alpine compiles with `new Function` ('unsafe-eval'), and its colours and some of its widths
    are inline styles that change with the page, which neither a nonce nor a hash can name
    ('unsafe-inline', styles only). It has no inline scripts, so scripts need no more.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        relax = csp_update({"script-src": [UNSAFE_EVAL], "style-src": [UNSAFE_INLINE]})
        self.get_relaxed_response: GetResponse = relax(get_response)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path.startswith(reverse("admin:index")):
            return self.get_relaxed_response(request)
        return self.get_response(request)


class UploadLimitMiddleware:
    """Refuses what is too large before a byte of it is read, whoever sends it.

    The forgery check after it reads the whole form, signed in or not. A request without a
    length has no body: the server's handler reads as much as is announced.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if int(length) > MAX_FORM_BYTES and not request.path.startswith("/api/"):
            return errors.too_large(request)
        return self.get_response(request)


class NoNulMiddleware:
    """Refuses an address that asks for a NUL: the database's texts hold none, and it would say so
    with an error. Forms and the API look for it themselves."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if "%00" in request.META.get("QUERY_STRING", "") and not request.path.startswith("/api/"):
            return errors.bad_request(request)
        return self.get_response(request)


class TokenOnlyMiddleware:
    """The API looks at a token only: a browser's session is not read there, and not ended either.

    Before the sessions', so that nothing after it sends a program to a page for people.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path.startswith("/api/"):
            request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)
        return self.get_response(request)


BEFORE_THE_DIRECTORY: Final = (
    "healthz",
    "sign_in",
    "sign_out",
    "oidc_authentication_init",
    "oidc_authentication_callback",
)
CHECKED_AT: Final = "directory_checked_at"


class _AtTheView:
    """Acts in a hook beside the view, when it is known or has failed; all else passes as it is."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)


class DirectoryMiddleware(_AtTheView):
    """Who is not let in by the directory any more is let out here, at the next check."""

    def process_view(
        self, request: HttpRequest, _view: Callable[..., Any], _args: object, _kwargs: object
    ) -> HttpResponse | None:
        user = request.user
        if _route(request) in BEFORE_THE_DIRECTORY or not isinstance(user, User):
            return None
        if not user.directory or not _is_check_due(request, Directory(user.directory)):
            return None
        if user.directory == Directory.OIDC and settings.CLOISTER_SIGN_IN.oidc is not None:
            # Its own session answers for whom it still lets in, without a word typed.
            return _send_to(request, "oidc_authentication_init")
        return self._check(request, user)

    def _check(self, request: HttpRequest, user: User) -> HttpResponse | None:
        try:
            entry = ldap.current_entry(user)
        except ServicesUnavailable as error:
            log.error("no answer: %s", type(error).__name__)  # noqa: TRY400  as elsewhere here
            return errors.unavailable(request)
        if entry is None:
            return _let_out(request, user)
        accounts.keep(user, entry)
        request.session[CHECKED_AT] = int(time.time())
        return None


def _is_check_due(request: HttpRequest, directory: Directory) -> bool:
    """Always where the directory is configured no more: then nobody answers for the account."""
    if "_auth_user_id" not in request.session:
        return False  # let in by a token, which its own rules end
    sign_in = settings.CLOISTER_SIGN_IN
    asked = sign_in.ldap if directory is Directory.LDAP else sign_in.oidc
    age_s = time.time() - request.session.get(CHECKED_AT, 0)
    return asked is None or not 0 <= age_s < 60 * asked.recheck_min


def _let_out(request: HttpRequest, user: User) -> HttpResponse:
    with transaction.atomic():
        ended = sessions.end(user)
        audit.record_in_transaction(
            Kind.SESSIONS_ENDED, actor=None, user=user.pk, sessions=ended, by="directory"
        )
    logout(request)
    return _send_to(request, "sign_in")


BEFORE_THE_SECOND_FACTOR: Final = (*BEFORE_THE_DIRECTORY, "second_factor")
"""Routes that a session may use which was opened with half of what its user must show."""


class SecondFactorMiddleware(_AtTheView):
    """A session of an administrator or a reviewer opens nothing before its second factor.

    Nor does one of anybody else who enrolled. What is open is listed by name, so that a new route
    is closed.
    """

    def process_view(
        self, request: HttpRequest, _view: Callable[..., Any], _args: object, _kwargs: object
    ) -> HttpResponse | None:
        route = _route(request)
        if route in BEFORE_THE_SECOND_FACTOR or not isinstance(request.user, User):
            return None
        user = request.user
        if not second_factor.is_missing(request, user):
            return None
        if factors.is_enrolled(user):
            return _send_to(request, "second_factor")
        # With nothing to lose yet: the password first, where it was handed out, then the app.
        if user.must_change_password or route in ("change_password", "enrol"):
            return None
        return _send_to(request, "enrol")


def _send_to(request: HttpRequest, name: str) -> HttpResponse:
    """To a page that comes first, and from there to where the visitor was going."""
    if request.headers.get("HX-Request"):
        return HttpResponseClientRedirect(reverse(name))
    if request.method != "GET":
        return HttpResponseRedirect(reverse(name))
    query = urlencode({"next": request.get_full_path()})
    return HttpResponseRedirect(f"{reverse(name)}?{query}")


BEFORE_THE_PASSWORD_CHANGE: Final = (*BEFORE_THE_SECOND_FACTOR, "change_password", "admin_sign_in")


class PasswordChangeMiddleware(_AtTheView):
    """Somebody whose password was handed out sets one of their own before anything else."""

    def process_view(
        self, request: HttpRequest, _view: Callable[..., Any], _args: object, _kwargs: object
    ) -> HttpResponse | None:
        here = reverse("change_password")
        if _route(request) in BEFORE_THE_PASSWORD_CHANGE:
            return None
        if not getattr(request.user, "must_change_password", False):
            return None
        if request.headers.get("HX-Request"):
            return HttpResponseClientRedirect(here)
        return HttpResponseRedirect(here)


BEFORE_THE_HOLD_IS_LIFTED: Final = (
    *BEFORE_THE_PASSWORD_CHANGE,
    "enrol",
    "recovery_codes",
    "account",
    "end_other_sessions",
)


class HeldAccountMiddleware(_AtTheView):
    """Whose password or second factor somebody else changed waits for a second person's word."""

    def process_view(
        self, request: HttpRequest, _view: Callable[..., Any], _args: object, _kwargs: object
    ) -> HttpResponse | None:
        if _route(request) in BEFORE_THE_HOLD_IS_LIFTED or not isinstance(request.user, User):
            return None
        return errors.held(request) if holds_on(request.user).exists() else None


UNAUDITED: Final = {
    "healthz": "whether database and broker answer",
    "sign_in": "the form; every try to sign in is on the log",
    "admin:jsi18n": "the administration's own words, the same for everybody",
    "api:openapi": "the description of the API, the same for everybody",
    "api:docs": "the same, to be read and tried",
}
"""Routes whose answers hold no data and are not on the log. Published in docs/audit.md."""

RECORDED_BEFORE: Final = ("thumbnail", "admin:retrieval_image_thumbnail")
"""Part of an answer that is on the log already, and opened by its ticket only."""


DENIALS: Final = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
"""A conflict too: it says that the image is there."""


class EveryAnswerIsRecordedMiddleware:
    """What a view handed out and nobody put on the log is put on it here, or not handed out.

    Views record what they know best: which images. This one sees to it that none is forgotten.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        before = audit.recorded_so_far()
        response = self.get_response(request)
        if audit.recorded_so_far() != before or not _tells_something(request, response):
            return response
        try:
            self._record(request, response)
        except AuditUnavailable:
            log.error("no answer: AuditUnavailable")  # noqa: TRY400  a database's message may tell
            return errors.unavailable(request)
        return response

    def _record(self, request: HttpRequest, response: HttpResponseBase) -> None:
        route = _route(request)
        is_served = response.status_code < HTTPStatus.BAD_REQUEST
        if is_served and route in RECORDED_BEFORE:
            audit.require_writable()
            return
        audit.record(
            Kind.PAGE_SERVED if is_served else Kind.PAGE_DENIED,
            actor=request.user if isinstance(request.user, User) else None,
            route=route,
            status=response.status_code,
        )


def _route(request: HttpRequest) -> str:
    """The route's name: the address itself may hold what a person typed."""
    return request.resolver_match.view_name if request.resolver_match else ""


def _tells_something(request: HttpRequest, response: HttpResponseBase) -> bool:
    """Not: a form to sign in, the way to it, and what was not understood or not found at all."""
    if _route(request) in UNAUDITED or request.resolver_match is None:
        return False
    if response.status_code < HTTPStatus.MULTIPLE_CHOICES:
        return True
    known = isinstance(request.user, User)
    denied = response.status_code in DENIALS
    return known and (response.status_code < HTTPStatus.BAD_REQUEST or denied)


class FailClosedMiddleware(_AtTheView):
    """No data and a 503 where the log, the database or the broker cannot do its part.

    What fails before or after the view itself ends in `errors.server_error`, with the same answer.
    """

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, AccessDenied):
            return errors.not_found(request)
        if isinstance(error, CANNOT_ANSWER):
            # The class only: a database's message may quote what was asked for.
            log.error("no answer: %s", type(error).__name__)
            return errors.unavailable(request)
        return None
