"""Access in an emergency: a reason, who one is once more, an hour. See `retrieval.break_glass`."""

from typing import Any, Final
from uuid import UUID

from django.contrib.auth import BACKEND_SESSION_KEY, authenticate
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from appliance.web import purpose, second_factor
from appliance.web.forms import BreakGlassForm
from appliance.web.purpose import actor_of, of_session
from retrieval import access, audit, break_glass
from retrieval.errors import AccessDenied
from retrieval.models import Kind, Purpose

RECENT_MIN: Final = 5
"""How old the second factor may be: the password is asked for on the page itself."""
PROVIDER_BACKEND: Final = "appliance.directory.oidc.Backend"
NOT_OPENED: Final = (
    "Nothing was opened: the password is wrong, or there is no collection of that name."
)
"""One sentence for both: what is there is not told to who cannot say who they are."""


@sensitive_post_parameters("password", "reason")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    """What is open, and the form. Its answer after a post is the search page, for emergencies."""
    if not second_factor.is_passed_within(request, RECENT_MIN):
        there = urlencode({"next": request.get_full_path()})
        return redirect(f"{reverse('second_factor')}?{there}")
    if request.method != "POST":
        return _page(request, _form(request, initial=_asked_for(request)))
    form = _form(request, data=request.POST)
    if not form.is_valid():
        return _page(request, form, "Say which collection and why, in a sentence.", 400)
    actor = actor_of(request)
    if not _is_the_same_person(request, form.cleaned_data["password"]):
        audit.record(Kind.SIGN_IN_FAILED, actor=actor, at="break_glass")
        return _page(request, form, NOT_OPENED, 403)
    try:
        break_glass.break_glass(
            form.cleaned_data["collection"],
            reason=form.cleaned_data["reason"],
            originals=form.cleaned_data["originals"],
            actor=actor,
        )
    except (AccessDenied, ValueError):
        return _page(request, form, NOT_OPENED, 403)
    purpose.declare(request, Purpose.EMERGENCY)
    return redirect("search")


@require_POST
def close(request: HttpRequest, broken_id: UUID) -> HttpResponse:
    break_glass.close(broken_id, actor=actor_of(request))
    return redirect("break_glass")


def _form(request: HttpRequest, **given: Any) -> BreakGlassForm:
    form = BreakGlassForm(**given)
    # Who signs in at a provider has no password here: the fresh second factor is asked of them.
    form.fields["password"].required = not _signs_in_at_a_provider(request)
    return form


def _is_the_same_person(request: HttpRequest, password: str) -> bool:
    """Counted like a try to sign in: who guesses here is locked out there."""
    if _signs_in_at_a_provider(request):
        return True
    actor = actor_of(request)
    again = authenticate(request, username=actor.get_username(), password=password)
    return again is not None and again.pk == actor.pk


def _signs_in_at_a_provider(request: HttpRequest) -> bool:
    return bool(request.session.get(BACKEND_SESSION_KEY) == PROVIDER_BACKEND)


def _page(
    request: HttpRequest, form: BreakGlassForm, problem: str = "", status: int = 200
) -> HttpResponse:
    context = {
        "form": form,
        "problem": problem,
        "is_barred": break_glass.is_barred(actor_of(request)),
        "opened": break_glass.open_to(actor_of(request)),
    }
    return render(request, "break_glass.html", context, status=status)


def _asked_for(request: HttpRequest) -> dict[str, object]:
    """The collection of the image somebody came from, where they may see that image."""
    actor, of_use = actor_of(request), of_session(request)
    try:
        image_id = UUID(request.GET.get("image", ""))
        with access.acting_as(actor, of_use):
            image = access.find_image(image_id, actor=actor, purpose=of_use)
    except (ValueError, AccessDenied):
        return {}
    return {"collection": image.collection.name, "originals": True}
