"""Asking an LDAP server (RFC 4511): who somebody is, whether a password is right, which groups.

Names are put into filters as values, never as text, so that none can widen a search.
"""

import logging
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.backends import BaseBackend
from django.http import HttpRequest
from sansldap import (
    BindResponse,
    ExtendedOperations,
    ExtendedResponse,
    FilterAnd,
    FilterEquality,
    LDAPClient,
    LDAPError,
    LDAPFilter,
    LDAPMessage,
    LDAPResultCode,
    SearchResultDone,
    SearchResultEntry,
)

from appliance.directory.accounts import Entry, account_of
from appliance.directory.configuration import Ldap
from appliance.directory.names import canonical, name_within
from retrieval.errors import ServicesUnavailable
from retrieval.models import User
from retrieval.models.user import Directory

log = logging.getLogger("cloister.directory")

TIMEOUT_S: Final = 4.0
MOST_BYTES: Final = 4 * 1024 * 1024
MOST_GROUPS: Final = 1000


class Backend(BaseBackend):
    """Lets in whom the directory knows by this name and password."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **_other: Any,
    ) -> User | None:
        server = settings.CLOISTER_SIGN_IN.ldap
        # An empty password is an "unauthenticated bind", which servers take for any name.
        if server is None or not username or not password:
            return None
        with opened(server) as directory:
            found = directory.find(server.name_attribute, username.encode())
            dn = f"{server.name_attribute}=nobody,{server.users}" if found is None else found[0]
            # For nobody as well, though with no password of theirs: it takes the same time.
            tried = secrets.token_hex(16) if found is None else password
            if not is_password_of(server, dn, tried) or found is None:
                return None
            entry = directory.entry_of(found)
        return None if entry is None else account_of(entry)

    def get_user(self, user_id: int) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first()


def current_entry(user: User) -> Entry | None:
    """What the directory says of this user now; None where it knows no open account any more."""
    server = settings.CLOISTER_SIGN_IN.ldap
    if server is None:
        return None
    with opened(server) as directory:
        found = directory.find(server.id_attribute, _value(user.directory_id))
        return None if found is None else directory.entry_of(found)


def is_password_of(server: Ldap, dn: str, password: str) -> bool:
    with connected(server) as connection:
        return connection.bind(dn, password)


@contextmanager
def opened(server: Ldap) -> Iterator["Opened"]:
    """The directory, as the appliance's own account there sees it."""
    with connected(server) as connection:
        if not connection.bind(server.bind_dn, server.bind_password):
            raise ServicesUnavailable("the LDAP server does not know the appliance's account")
        yield Opened(server, connection)


@contextmanager
def connected(server: Ldap) -> Iterator["Connection"]:
    """A connection in TLS. Raises ServicesUnavailable; a retry may help."""
    place = urlsplit(server.server)
    is_tls = place.scheme == "ldaps"
    try:
        context = ssl.create_default_context(cafile=server.authority)
        host = place.hostname or ""
        address = (host, place.port or (636 if is_tls else 389))
        with socket.create_connection(address, timeout=TIMEOUT_S) as plain:
            if not is_tls:
                Connection(plain).start_tls()
            with context.wrap_socket(plain, server_hostname=host) as wrapped:
                yield Connection(wrapped)
    except (OSError, LDAPError) as error:
        raise ServicesUnavailable("the LDAP server does not answer") from error


class Opened:
    def __init__(self, server: Ldap, connection: "Connection") -> None:
        self.server = server
        self.connection = connection

    def find(self, attribute: str, value: bytes) -> tuple[str, dict[str, list[bytes]]] | None:
        """DN and attributes of the one open account of which this holds."""
        server = self.server
        is_it = FilterEquality(attribute=attribute, value=value)
        found = self.connection.search(
            server.users,
            FilterAnd(filters=[LDAPFilter.from_string(server.account_filter), is_it]),
            [server.name_attribute, server.id_attribute],
            most=2,
        )
        return found[0] if len(found) == 1 else None

    def entry_of(self, found: tuple[str, dict[str, list[bytes]]]) -> Entry | None:
        server, (dn, attributes) = self.server, found
        names = attributes.get(server.name_attribute.lower(), [])
        ids = attributes.get(server.id_attribute.lower(), [])
        if len(names) != 1 or len(ids) != 1:
            # Which of them counts would be the server's whim, or the person's own choice.
            log.error("an entry of the LDAP directory has not one name and one id")
            return None
        groups = self.connection.search(
            server.groups,
            FilterEquality(attribute=server.member_attribute, value=dn.encode()),
            [server.group_name_attribute],
            most=MOST_GROUPS,
        )
        return Entry(
            Directory.LDAP,
            _text(ids[0]),
            _text(names[0]),
            frozenset(name for of_group, _ in groups for name in self._names_of(of_group)),
        )

    def _names_of(self, group: str) -> Iterator[str]:
        """The DN, and a plain name for a group right below the base."""
        server = self.server
        yield canonical(group)
        if name := name_within(server.groups, group, server.group_name_attribute):
            yield name


HEX: Final = "hex:"


def _text(value: bytes) -> str:
    """As it is, or its hex digits where it is no text: Active Directory's ids are bytes."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return HEX + value.hex()
    return text if text.isprintable() and not text.startswith(HEX) else HEX + value.hex()


def _value(text: str) -> bytes:
    """What the directory has where `_text` made this of it."""
    return bytes.fromhex(text.removeprefix(HEX)) if text.startswith(HEX) else text.encode()


class Connection:
    """Requests and their answers, one at a time, over a socket."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.protocol = LDAPClient()

    def start_tls(self) -> None:
        self.protocol.extended_request(ExtendedOperations.LDAP_START_TLS.value)
        done = self._answers(ExtendedResponse)[-1]
        if done.result.result_code != LDAPResultCode.SUCCESS:
            raise LDAPError("no TLS")

    def bind(self, dn: str, password: str) -> bool:
        self.protocol.bind_simple(dn, password)
        code = self._answers(BindResponse)[-1].result.result_code
        if code in (LDAPResultCode.BUSY, LDAPResultCode.UNAVAILABLE):
            raise LDAPError("busy")
        return bool(code == LDAPResultCode.SUCCESS)

    def search(
        self, base: str, of: LDAPFilter, attributes: list[str], *, most: int
    ) -> list[tuple[str, dict[str, list[bytes]]]]:
        """DN and attributes, by lower-case name, of what the filter holds for."""
        self.protocol.search_request(
            base, filter=of, attributes=attributes, size_limit=most, time_limit=int(TIMEOUT_S)
        )
        answers = self._answers(SearchResultDone)
        code = answers[-1].result.result_code
        if code not in (
            LDAPResultCode.SUCCESS,
            LDAPResultCode.SIZE_LIMIT_EXCEEDED,
            LDAPResultCode.NO_SUCH_OBJECT,
        ):
            raise LDAPError("refused")
        return [
            (entry.object_name, {a.name.lower(): list(a.values) for a in entry.attributes})
            for entry in answers
            if isinstance(entry, SearchResultEntry)
        ]

    def _answers(self, last: type[LDAPMessage]) -> list[Any]:
        """Send what is due, and read until a message of the kind that ends the answer."""
        self.link.sendall(self.protocol.data_to_send())
        answers: list[Any] = []
        received = 0
        while not answers or not isinstance(answers[-1], last):
            data = self.link.recv(65536)
            received += len(data)
            if not data or received > MOST_BYTES:
                raise LDAPError("the answer breaks off")
            answers += self.protocol.receive(data)
        return answers
