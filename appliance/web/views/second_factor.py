"""The page that asks for a code, and the one that takes in an authenticator app."""

import base64
from typing import Final

import segno
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from appliance.web import second_factor as of_session
from appliance.web.forms import CodeForm
from appliance.web.purpose import actor_of
from retrieval import officer, second_factor
from retrieval.models import User
from retrieval.second_factor import Outcome

DRAFT: Final = "authenticator_draft"
RECENT_MIN: Final = 10

PROBLEMS: Final = {
    Outcome.WRONG: "That code is not right, or it was used already. Wait for the next one.",
    Outcome.TOO_SOON: "Too many wrong codes: wait before the next try. Each one doubles the wait.",
}


@never_cache
@require_http_methods(["GET", "POST"])
def ask(request: HttpRequest) -> HttpResponse:
    """Ask for a code. May be opened at any time, to show the second factor once more."""
    user = actor_of(request)
    if not second_factor.is_enrolled(user):
        return redirect(_with_next("enrol", next_page(request)))
    form = CodeForm(request.POST or None)
    problem = None
    if request.method == "POST" and form.is_valid():
        outcome = second_factor.verify(user, form.cleaned_data["code"])
        if outcome is Outcome.PASSED:
            of_session.remember(request)
            return HttpResponseRedirect(next_page(request))
        problem = PROBLEMS[outcome]
    elif request.method == "POST":
        problem = PROBLEMS[Outcome.WRONG]
    context = {"problem": problem, "next": next_page(request)}
    return render(request, "second_factor.html", context)


@never_cache
@require_http_methods(["GET", "POST"])
def enrol(request: HttpRequest) -> HttpResponse:
    """Show a key as a QR code; the app's first code takes it in. Then recovery codes, once."""
    user = actor_of(request)
    if second_factor.is_enrolled(user) and not of_session.is_passed_within(request, RECENT_MIN):
        return redirect(_with_next("second_factor", reverse("enrol")))
    draft = _draft_of(request, user)
    problem = None
    if request.method == "POST":
        form = CodeForm(request.POST)
        codes = (
            second_factor.enrol(user, draft, form.cleaned_data["code"]) if form.is_valid() else None
        )
        if codes is not None:
            # Who found a password would set one up as well: its owner is to notice.
            officer.mail(user.email, "second factor", "Your account has a new authenticator app.")
            request.session.pop(DRAFT)
            of_session.remember(request)
            return _recovery_codes(request, codes)
        problem = "That is not the code which the app shows for this key now."
    key = second_factor.shown_key(user, draft)
    context = {
        "problem": problem,
        "next": next_page(request),
        "qr": segno.make(second_factor.address(user, draft), micro=False).svg_data_uri(
            scale=6, border=3, dark="#000", light="#fff"
        ),
        "key": [key[i : i + 4] for i in range(0, len(key), 4)],
        "is_required": second_factor.is_required(user),
    }
    return render(request, "enrol.html", context)


@never_cache
@require_POST
def renew_recovery_codes(request: HttpRequest) -> HttpResponse:
    if not of_session.is_passed_within(request, RECENT_MIN):
        return redirect(_with_next("second_factor", reverse("enrol")))
    return _recovery_codes(request, second_factor.renew_recovery_codes(actor_of(request)))


def next_page(request: HttpRequest) -> str:
    """Where the visitor was going, if that is a page of ours."""
    asked = request.POST.get("next") or request.GET.get("next") or ""
    own = url_has_allowed_host_and_scheme(
        asked, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return asked if own else reverse("search")


def _with_next(name: str, page: str) -> str:
    return f"{reverse(name)}?{urlencode({'next': page})}"


def _draft_of(request: HttpRequest, user: User) -> bytes:
    """The key this session offers: of its own, so that nobody else has seen it."""
    drafted = request.session.get(DRAFT)
    if drafted is None:
        draft = second_factor.draft_key(user)
        request.session[DRAFT] = base64.b64encode(draft).decode()
        return draft
    return base64.b64decode(drafted)


def _recovery_codes(request: HttpRequest, codes: list[str]) -> HttpResponse:
    return render(request, "recovery_codes.html", {"codes": codes, "next": next_page(request)})
