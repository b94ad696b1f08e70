"""What every answer passes through."""

import logging
from collections.abc import Callable
from typing import Any, Final

from csp.constants import UNSAFE_EVAL, UNSAFE_INLINE
from csp.decorators import csp_update
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django_htmx.http import HttpResponseClientRedirect

from appliance.web.views import errors
from retrieval.errors import (
    AccessDenied,
    AuditUnavailable,
    EncoderUnavailable,
    ServicesUnavailable,
    StorageCorrupt,
)

log = logging.getLogger("cloister.web")

GetResponse = Callable[[HttpRequest], HttpResponseBase]

MAX_FORM_BYTES: Final = 21 * 1024 * 1024
"""What a page may send: a query image of 20 MiB and its form. The API has its own limit."""

CANNOT_ANSWER = (
    OperationalError,
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


class PasswordChangeMiddleware:
    """Somebody whose password was handed out sets one of their own before anything else."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], _args: object, _kwargs: object
    ) -> HttpResponse | None:
        if not getattr(view, "login_required", True):
            return None
        here = reverse("change_password")
        must_change = getattr(request.user, "must_change_password", False)
        if not must_change or request.path in (here, reverse("sign_out")):
            return None
        if request.headers.get("HX-Request"):
            return HttpResponseClientRedirect(here)
        return HttpResponseRedirect(here)


class FailClosedMiddleware:
    """No data and a 503 where the log, the database or the broker cannot do its part.

    What fails before or after the view itself ends in `errors.server_error`, with the same answer.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, AccessDenied):
            return errors.not_found(request)
        if isinstance(error, CANNOT_ANSWER):
            # The class only: a database's message may quote what was asked for.
            log.error("no answer: %s", type(error).__name__)
            return errors.unavailable(request)
        return None
