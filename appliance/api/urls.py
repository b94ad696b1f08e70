"""The routes, each behind the bounds that hold for all of them."""

import functools
from collections.abc import Callable
from typing import Any, Final

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.csrf import csrf_exempt

from appliance.api.api import api
from appliance.api.problems import problem

MAX_JSON_BYTES: Final = 1024 * 1024
MAX_BODY_BYTES: Final = 600 * 1024 * 1024
"""What is handed in: a file of 512 MiB and the form around it."""

NAMES: Final = {"openapi-json": "openapi", "openapi-view": "docs"}


def bounded(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A token opens these, not a session: nothing to sign in for, nothing to forge."""

    @login_not_required
    @csrf_exempt
    @functools.wraps(view)
    def answered(request: HttpRequest, **parts: Any) -> HttpResponse:
        response = _unfit(request) or view(request, **parts)
        if response.status_code == 405:  # noqa: PLR2004
            allowed = {"Allow": response.headers.get("Allow", "")}
            return problem(405, "That method is not for this address.", headers=allowed)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    return answered


def _unfit(request: HttpRequest) -> HttpResponse | None:
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isascii() or not length.isdecimal():
        return problem(400, "The request's length is no number.")
    taken = api.body_types(request)
    most = MAX_JSON_BYTES if taken <= {"application/json"} else MAX_BODY_BYTES
    if int(length) > most:
        return problem(413, f"A request of this kind may have up to {most} bytes.")
    if taken and int(length) and request.content_type not in taken:
        return problem(415, "This address takes " + " or ".join(sorted(taken)) + ".")
    return None


def _bounded(pattern: URLPattern) -> URLPattern:
    # ninja hands out routes only, no resolvers.
    name = NAMES.get(pattern.name or "", pattern.name or "")
    bound: URLPattern = path(str(pattern.pattern), bounded(pattern.callback), name=name)
    return bound


_patterns, _app_name, _namespace = api.urls
app_name = _namespace
urlpatterns = [_bounded(p) for p in _patterns if isinstance(p, URLPattern)]
