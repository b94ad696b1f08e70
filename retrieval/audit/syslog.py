"""Messages to a log server: RFC 5424's form, over TLS as RFC 5425 frames them."""

import os
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from retrieval.errors import ServicesUnavailable

PRIORITY: Final = 10 * 8 + 5
"""Facility 10 (security), severity 5 (notice): RFC 5424, section 6.2.1; 85, as ATNA asks."""

TIMEOUT_S: Final = 5.0
DEFAULT_PORT: Final = 6514
BOM: Final = b"\xef\xbb\xbf"


def message(text: str, *, name: str, at: str) -> bytes:
    """One message. `name` is its MSGID, `at` its time (UTC, RFC 3339)."""
    head = f"<{PRIORITY}>1 {at} {socket.gethostname() or '-'} cloister {os.getpid()} {name} - "
    return head.encode("ascii", "replace") + BOM + text.encode()


def framed(content: bytes) -> bytes:
    """Octet counting (RFC 5425, section 4.3): a message may hold line breaks."""
    return str(len(content)).encode() + b" " + content


def send(messages: Iterable[bytes], *, server: str, ca_file: Path | None) -> int:
    """Send to `server`, host or host:port, whose certificate must be its own; how many were.

    TCP tells no more than that the server's machine took them. Raises ServicesUnavailable.
    """
    host, _, port = server.rpartition(":") if ":" in server else (server, "", "")
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    sent = 0
    try:
        with (
            socket.create_connection((host, int(port or DEFAULT_PORT)), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            for content in messages:
                secured.sendall(framed(content))
                sent += 1
            secured.unwrap()
    except (OSError, ValueError) as error:
        raise ServicesUnavailable("the log server does not take messages") from error
    return sent
