"""Answers without data. They read neither session nor database, and say the same to everybody."""

import sys
from typing import Final

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from appliance.api.problems import problem
from retrieval.errors import CloisterError

TRY_AGAIN: Final = {"Retry-After": "5"}


def _plain(
    request: HttpRequest,
    status: int,
    title: str,
    message: str,
    headers: dict[str, str] | None = None,
) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem(status, message, headers=headers)
    template = "error_part.html" if request.headers.get("HX-Request") else "error.html"
    body = render_to_string(template, {"title": title, "message": message})
    return HttpResponse(
        body, status=status, headers={"Cache-Control": "no-store", **(headers or {})}
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Missing, foreign and never there: one answer, to the byte."""
    return _plain(request, 404, "Not found", "There is nothing here that you may see.")


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _plain(request, 403, "Not allowed", "Your account may not do this.")


def held(request: HttpRequest) -> HttpResponse:
    return _plain(
        request,
        403,
        "Not yet",
        "Somebody else set your password or reset your second factor. Until the privacy officer has"
        " confirmed with you that you asked for it, this account opens nothing. If you did not ask"
        " for it, tell the officer.",
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _plain(
        request,
        403,
        "Please try again",
        "This page was open for too long, or cookies are blocked. Load it again and repeat.",
    )


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _plain(request, 400, "Not understood", "The request could not be read.")


def too_large(request: HttpRequest) -> HttpResponse:
    return _plain(request, 413, "Too large", "A query image may have up to 20 MB.")


def unavailable(request: HttpRequest) -> HttpResponse:
    return _plain(
        request,
        503,
        "Not available right now",
        "Nothing was shown: a part of the appliance does not answer. Please try again shortly.",
        TRY_AGAIN,
    )


def server_error(request: HttpRequest) -> HttpResponse:
    # Django calls this while it handles the exception.
    if isinstance(sys.exc_info()[1], (DatabaseError, InterfaceError, CloisterError)):
        return unavailable(request)
    return _plain(
        request, 500, "Something went wrong", "Nothing was shown. The administrator can help."
    )
