"""Out to the organisation's OpenID provider, and back."""

import time
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView

from appliance.directory import oidc
from appliance.web import sessions
from appliance.web.middleware import CHECKED_AT
from retrieval import audit
from retrieval.errors import AccessDenied
from retrieval.models import Kind


class Open:
    """Missing, as any address is that nobody has, where no provider is configured."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if settings.CLOISTER_SIGN_IN.oidc is None:
            raise AccessDenied("no OpenID provider is configured")
        return super().dispatch(request, *args, **kwargs)  # type: ignore[misc, no-any-return]

    @staticmethod
    def get_settings(attr: str, *default: Any) -> Any:
        return oidc.setting(attr, *default)


@method_decorator([login_not_required, never_cache], name="dispatch")
class GoToProvider(Open, OIDCAuthenticationRequestView):  # type: ignore[misc]  # no types
    def __init__(self, **kwargs: Any) -> None:
        super(OIDCAuthenticationRequestView, self).__init__(**kwargs)
        if settings.CLOISTER_SIGN_IN.oidc is not None:
            self.OIDC_OP_AUTH_ENDPOINT = self.get_settings("OIDC_OP_AUTHORIZATION_ENDPOINT")
            self.OIDC_RP_CLIENT_ID = self.get_settings("OIDC_RP_CLIENT_ID")


@method_decorator([login_not_required, never_cache], name="dispatch")
class ComeBack(Open, OIDCAuthenticationCallbackView):  # type: ignore[misc]  # no types
    def get(self, request: HttpRequest) -> HttpResponse:
        # Also before a refusal is believed: a link of somebody else's signs nobody out.
        if request.GET.get("state") not in request.session.get("oidc_states", {}):
            raise SuspiciousOperation("an answer to nothing that was asked")
        return super().get(request)  # type: ignore[no-any-return]

    def login_success(self) -> HttpResponse:
        request, next_page = self.request, self.success_url
        if request.user.pk != self.user.pk:
            audit.record(Kind.SIGNED_IN, actor=self.user, by="provider")
            sessions.SessionStore.clear_expired()
            request.session.flush()
            auth.login(request, self.user)
        # For the same user it was a check: the session goes on, under another key.
        request.session.cycle_key()
        request.session[CHECKED_AT] = int(time.time())
        return HttpResponseRedirect(next_page)

    def login_failure(self) -> HttpResponse:
        audit.record(Kind.SIGN_IN_FAILED, actor=None, by="provider")
        if self.request.user.is_authenticated:
            auth.logout(self.request)
        return super().login_failure()  # type: ignore[no-any-return]
