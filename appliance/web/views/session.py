"""Signing in and out, passwords, and the declared purpose of use. All of it on the log."""

from typing import Any

from django.conf import settings
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView, PasswordChangeView
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from appliance.web import address, purpose, sessions
from appliance.web.forms import OwnPasswordForm, PurposeForm
from retrieval import audit, refusals, second_factor
from retrieval.models import Kind, Purpose, holds_on


class SignIn(LoginView):
    template_name = "sign_in.html"

    def get(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        # A part of a page asked for after the session ended: the whole page must go.
        if request.headers.get("HX-Request"):
            return HttpResponseClientRedirect(str(reverse_lazy("sign_in")))
        return super().get(request, *args, **kwargs)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        provider = settings.CLOISTER_SIGN_IN.oidc
        kwargs["provider"] = None if provider is None else provider.title
        kwargs["is_refused"] = "refused" in self.request.GET
        return super().get_context_data(**kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        audit.record(Kind.SIGNED_IN, actor=form.get_user())
        sessions.SessionStore.clear_expired()
        # Who signs in again starts from the beginning, second factor and limits included.
        self.request.session.flush()
        return super().form_valid(form)

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        name = audit.fingerprint(str(form.data.get("username", "")))
        is_locked = getattr(self.request, "axes_locked_out", False)
        if is_locked:
            # Not looked at, so not bounded either: counted for each address.
            there = audit.fingerprint(address.client_address(self.request) or "")
            refusals.record(Kind.SIGN_IN_LOCKED, of=there, actor=None, name=name)
        else:
            audit.record(Kind.SIGN_IN_FAILED, actor=None, name=name)
        return self.render_to_response(self.get_context_data(form=form, is_locked=is_locked))


class SignOut(LogoutView):
    def post(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        audit.record(Kind.SIGNED_OUT, actor=purpose.actor_of(request))
        return super().post(request, *args, **kwargs)


class ChangePassword(PasswordChangeView):
    template_name = "change_password.html"
    form_class = OwnPasswordForm
    success_url = reverse_lazy("search")

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "request": self.request}

    def form_invalid(self, form: OwnPasswordForm) -> HttpResponse:
        if "old_password" in form.errors:
            user = purpose.actor_of(self.request)
            audit.record(Kind.SIGN_IN_FAILED, actor=user, at="change_password")
        return super().form_invalid(form)

    def form_valid(self, form: OwnPasswordForm) -> HttpResponse:
        user = purpose.actor_of(self.request)
        with transaction.atomic():
            form.save()
            sessions.end(user, but=self.request.session.session_key)
            user.must_change_password = False
            user.save(update_fields=["must_change_password"])
            audit.record_in_transaction(
                Kind.USER_CHANGED, actor=user, user=user.pk, change="own password"
            )
        update_session_auth_hash(self.request, user)
        return HttpResponseRedirect(str(self.success_url))


@never_cache
@require_safe
def account(request: HttpRequest) -> HttpResponse:
    """One's own sign-in: password, second factor and sessions."""
    user, key = purpose.actor_of(request), request.session.session_key
    rows = [(row, sessions.is_own(row, key)) for row in sessions.of_user(user)]
    context = {
        "holds": holds_on(user),
        "sessions": rows,
        "is_enrolled": second_factor.is_enrolled(user),
        "is_required": second_factor.is_required(user),
        "codes_left": second_factor.recovery_codes_left(user),
    }
    return render(request, "account.html", context)


@require_POST
def end_other_sessions(request: HttpRequest) -> HttpResponse:
    user = purpose.actor_of(request)
    with transaction.atomic():
        ended = sessions.end(user, but=request.session.session_key)
        audit.record_in_transaction(Kind.SESSIONS_ENDED, actor=user, user=user.pk, sessions=ended)
    return redirect("account")


@require_POST
def declare_purpose(request: HttpRequest) -> HttpResponse:
    granted = purpose.granted_to(purpose.actor_of(request))
    form = PurposeForm(request.POST, granted=granted)
    if form.is_valid():
        purpose.declare(request, Purpose(form.cleaned_data["purpose"]))
    return redirect("search")
