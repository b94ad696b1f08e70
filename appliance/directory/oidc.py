"""Asking an OpenID provider: authorisation code with PKCE, state and nonce.

mozilla-django-oidc does the protocol. It leaves issuer, audience and the subject of the user's
claims unchecked (OpenID Connect Core 3.1.3.7 and 5.3.2): that is done here.
"""

import hashlib
import logging
import time
from typing import Any, Final

import jwt
import requests
from django.conf import settings
from django.contrib.auth.backends import BaseBackend
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest
from mozilla_django_oidc.auth import OIDCAuthenticationBackend

from appliance.directory.accounts import Entry, account_of
from appliance.directory.configuration import Oidc
from appliance.directory.names import canonical
from retrieval.errors import AccessDenied
from retrieval.models import User
from retrieval.models.user import Directory

log = logging.getLogger("cloister.directory")

TIMEOUT_S: Final = 5
CLOCKS_OFF_S: Final = 60
REFUSED: Final = (
    requests.RequestException,
    jwt.PyJWTError,
    SuspiciousOperation,
    # What an answer of the wrong kind comes to in the library and here: a list for an object, say.
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)


class Backend(BaseBackend):
    """Lets in whom the provider sends back with a code."""

    def authenticate(
        self,
        request: HttpRequest | None,
        nonce: str | None = None,
        code_verifier: str | None = None,
        **_other: Any,
    ) -> User | None:
        provider = settings.CLOISTER_SIGN_IN.oidc
        if provider is None or request is None or not nonce or not code_verifier:
            return None
        try:
            user = Exchange().authenticate(request, nonce=nonce, code_verifier=code_verifier)
        except REFUSED as error:
            # The class only: the message may quote what the provider said of somebody.
            log.error("the OpenID provider's answer is refused: %s", type(error).__name__)  # noqa: TRY400
            return None
        return user if isinstance(user, User) else None

    def get_user(self, user_id: int) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first()


class Exchange(OIDCAuthenticationBackend):  # type: ignore[misc]  # no types
    """A code for an account."""

    @staticmethod
    def get_settings(attr: str, *default: Any) -> Any:
        return setting(attr, *default)

    def get_or_create_user(
        self, access_token: str, id_token: str, payload: dict[str, Any]
    ) -> User | None:
        provider = configured()
        require_meant_for_us(payload, provider)
        told = self.get_userinfo(access_token, id_token, payload)
        if told["sub"] != payload["sub"]:
            raise SuspiciousOperation("claims of somebody else")
        claims = payload | told
        groups = claims.get(provider.groups_claim, [])
        subject, name = claims["sub"], claims[provider.name_claim]
        if not isinstance(groups, list) or not all(
            isinstance(text, str) and text and text.isprintable()
            for text in (subject, name, *groups)
        ):
            raise SuspiciousOperation("claims of the wrong kind")
        return account_of(
            Entry(
                Directory.OIDC,
                hashlib.sha256(f"{provider.issuer}\n{subject}".encode()).hexdigest(),
                name,
                frozenset(canonical(group) for group in groups),
            )
        )


def configured() -> Oidc:
    provider: Oidc | None = settings.CLOISTER_SIGN_IN.oidc
    if provider is None:
        raise AccessDenied("no OpenID provider is configured")
    return provider


def require_meant_for_us(payload: dict[str, Any], provider: Oidc) -> None:
    """Raise SuspiciousOperation unless this token was made by the provider, for us, just now."""
    audience = payload["aud"]
    named = [audience] if isinstance(audience, str) else audience
    is_ours = provider.client_id in named and payload.get("azp", provider.client_id) == (
        provider.client_id
    )
    is_fresh = time.time() < payload["exp"] + CLOCKS_OFF_S
    if payload["iss"] != provider.issuer or not is_ours or not is_fresh:
        raise SuspiciousOperation("a token that is not for us")


def setting(name: str, *default: Any) -> Any:
    """The library's settings, from the operator's file."""
    provider = configured()
    values = {
        "OIDC_OP_AUTHORIZATION_ENDPOINT": provider.authorization_endpoint,
        "OIDC_OP_TOKEN_ENDPOINT": provider.token_endpoint,
        "OIDC_OP_USER_ENDPOINT": provider.userinfo_endpoint,
        "OIDC_OP_JWKS_ENDPOINT": provider.jwks_endpoint,
        "OIDC_RP_CLIENT_ID": provider.client_id,
        "OIDC_RP_CLIENT_SECRET": provider.client_secret,
        "OIDC_RP_SIGN_ALGO": provider.algorithm,
        "OIDC_RP_SCOPES": provider.scopes,
        "OIDC_USE_PKCE": True,
        "OIDC_TIMEOUT": TIMEOUT_S,
        "OIDC_VERIFY_SSL": provider.authority or True,
        "LOGIN_REDIRECT_URL": "search",
        "LOGIN_REDIRECT_URL_FAILURE": "/sign-in?refused=1",
    }
    return values[name] if not default else values.get(name, default[0])
