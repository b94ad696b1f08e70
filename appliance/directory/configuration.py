"""The file that `CLOISTER_SIGN_IN` names: whom to ask who somebody is, and which groups count.

staff_groups = ["it-administrators"]      # these, and no others, are staff here

[groups]                                  # theirs = ours
"radiology-staff" = "Radiology"           # LDAP: the group of this name right below `groups`
"cn=night,ou=wards,ou=groups,dc=example,dc=org" = "Night shift"   # one further down: by its DN

[ldap]
server = "ldaps://ldap.example.org"       # or ldap://, which is turned into TLS first
authority = "/run/secrets/ldap_ca.pem"
bind_dn = "cn=cloister,ou=services,dc=example,dc=org"
bind_password_file = "/run/secrets/ldap_password"
users = "ou=people,dc=example,dc=org"
groups = "ou=groups,dc=example,dc=org"
account_filter = "(&(objectClass=person)(!(shadowExpire=1)))"

[oidc]
title = "Example Hospital"
issuer = "https://id.example.org/realms/hospital"
client_id = "cloister"
client_secret_file = "/run/secrets/oidc_secret"
authorization_endpoint = "https://id.example.org/…/auth"
token_endpoint = "https://id.example.org/…/token"
userinfo_endpoint = "https://id.example.org/…/userinfo"
jwks_endpoint = "https://id.example.org/…/certs"
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from appliance.directory.names import canonical

ENDPOINTS: Final = (
    "issuer",
    "authorization_endpoint",
    "token_endpoint",
    "userinfo_endpoint",
    "jwks_endpoint",
)


@dataclass(frozen=True)
class Ldap:
    """authority: whose certificate the server shows, PEM; the system's authorities if left out.
    recheck_min: how old the directory's word on an open session may be."""

    server: str
    bind_dn: str
    bind_password: str = field(repr=False)
    users: str
    groups: str
    authority: str | None = None
    name_attribute: str = "uid"
    id_attribute: str = "entryUUID"
    account_filter: str = "(objectClass=person)"
    member_attribute: str = "member"
    group_name_attribute: str = "cn"
    recheck_min: int = 5


@dataclass(frozen=True)
class Oidc:
    title: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    jwks_endpoint: str
    authority: str | None = None
    algorithm: str = "RS256"
    scopes: str = "openid profile"
    name_claim: str = "preferred_username"
    groups_claim: str = "groups"
    recheck_min: int = 60


@dataclass(frozen=True)
class SignIn:
    """groups: the directory's group → ours. staff_groups: the directory's."""

    ldap: Ldap | None = None
    oidc: Oidc | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    staff_groups: frozenset[str] = frozenset()


def read(path: Path | None) -> SignIn:
    """Raises ImproperlyConfigured for a file that is not whole: nothing starts with half of one."""
    if path is None:
        return SignIn()
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImproperlyConfigured("the file CLOISTER_SIGN_IN names cannot be read") from error
    unknown = given.keys() - {"ldap", "oidc", "groups", "staff_groups"}
    if unknown:
        raise ImproperlyConfigured(f"CLOISTER_SIGN_IN: unknown {sorted(unknown)}")
    sign_in = SignIn(
        ldap=_section(Ldap, given, "ldap", "bind_password"),
        oidc=_section(Oidc, given, "oidc", "client_secret"),
        groups={canonical(theirs): str(ours) for theirs, ours in given.get("groups", {}).items()},
        staff_groups=frozenset(canonical(str(name)) for name in given.get("staff_groups", [])),
    )
    _require_safe(sign_in)
    return sign_in


def _section(kind: type[Any], given: dict[str, Any], name: str, secret: str) -> Any:
    if name not in given:
        return None
    values = dict(given[name])
    secret_file = values.pop(f"{secret}_file", None)
    known = {f.name: f.type for f in fields(kind)} | {secret: str}
    try:
        values[secret] = Path(secret_file).read_text(encoding="utf-8").strip()
        wrong = [key for key, value in values.items() if not _fits(value, known[key])]
        if wrong or not values[secret]:
            raise ImproperlyConfigured(f"CLOISTER_SIGN_IN, [{name}]: wrong {wrong or [secret]}")
        return kind(**values)
    except (OSError, TypeError, KeyError) as error:
        raise ImproperlyConfigured(f"CLOISTER_SIGN_IN, [{name}]: {error}") from error


def _fits(value: object, declared: object) -> bool:
    return isinstance(value, int if declared is int else str)


def _require_safe(sign_in: SignIn) -> None:
    """Names and passwords pass over TLS, or stay on this machine."""
    addresses = [] if sign_in.oidc is None else [getattr(sign_in.oidc, n) for n in ENDPOINTS]
    for address in addresses:
        if not address.startswith("https://") and not _is_here(address):
            raise ImproperlyConfigured("CLOISTER_SIGN_IN, [oidc]: its addresses must be https")
    if sign_in.ldap and urlsplit(sign_in.ldap.server).scheme not in ("ldap", "ldaps"):
        raise ImproperlyConfigured("CLOISTER_SIGN_IN, [ldap]: server must be ldaps:// or ldap://")
    if sign_in.oidc and sign_in.oidc.algorithm[:2] not in ("RS", "ES"):
        raise ImproperlyConfigured("CLOISTER_SIGN_IN, [oidc]: algorithm must be one of a key pair")


def _is_here(address: str) -> bool:
    try:
        return ip_address(urlsplit(address).hostname or "").is_loopback
    except ValueError:
        return False
