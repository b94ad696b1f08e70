"""What the environment decides, read once and checked: where data lies and whom to talk to."""

import hashlib
import os
import pwd
import secrets
import stat
import tempfile
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

# sun_path holds 108 bytes with its NUL; PostgreSQL adds "/.s.PGSQL.5432".
LONGEST_SOCKET_FOLDER = 90

# PostgreSQL refuses to run as root; root hands it to this system user.
POSTGRES_USER = "cloister-postgres"

# A database that vanished without a word is given up after four seconds, not after a quarter of
# an hour: nobody waits longer than five for a page that says so.
NO_ANSWER_IN_TIME = {
    "connect_timeout": 3,
    "tcp_user_timeout": 4000,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 2,
}

DATABASE_ROLES = ("web", "worker", "owner")


def data_folder() -> Path:
    return Path(os.environ.get("CLOISTER_VAR", "var")).resolve()


def read_secret(name: str) -> str | None:
    """The value of NAME, or the content of the file that NAME_FILE points to (a mounted secret)."""
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE cannot be read") from error
    return os.environ.get(name)


def private_folder(path: Path) -> Path:
    """`path`, made if need be, with no right for anybody else.

    Raises ImproperlyConfigured where somebody else made it first: in a folder for all, like /tmp,
    its maker could put a server of his own behind our socket's name.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in _own_users():
        raise ImproperlyConfigured(f"{path} belongs to somebody else")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def _own_users() -> set[int]:
    """Ourselves, and, where we are root, the user PostgreSQL runs as."""
    users = {os.geteuid()}
    if os.geteuid() == 0:
        with suppress(KeyError):
            users.add(pwd.getpwnam(POSTGRES_USER).pw_uid)
    return users


def own_secret(path: Path) -> str:
    """A secret of this appliance, made at first use and kept in a file only its owner reads."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        private_folder(path.parent)
        return _make_secret(path)


def _make_secret(path: Path) -> str:
    """Two processes may get here at once: both end up with the first one's secret."""
    draft = path.with_suffix(f".{secrets.token_hex(8)}")
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(secrets.token_urlsafe(48), encoding="utf-8")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text(encoding="utf-8").strip()


def socket_folder(var: Path) -> Path:
    """Where the embedded servers' sockets lie: in the data folder, unless its path is too long."""
    folder = var / "run"
    if len(os.fsencode(folder)) <= LONGEST_SOCKET_FOLDER:
        return folder
    digest = hashlib.sha256(os.fsencode(var)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"cloister-{os.getuid()}-{digest}"


def database_role() -> str:
    """Which of the three database roles this process is: `web` unless told otherwise."""
    role = os.environ.get("CLOISTER_DATABASE_ROLE", "web")
    if role not in DATABASE_ROLES:
        raise ImproperlyConfigured(f"CLOISTER_DATABASE_ROLE must be one of {DATABASE_ROLES}")
    return role


def uses_embedded_database() -> bool:
    return read_secret("DATABASE_URL") is None


def uses_embedded_broker() -> bool:
    return read_secret("BROKER_URL") is None


def database() -> dict[str, Any]:
    """Django's settings for the one database, as the role of this process."""
    connection: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_HEALTH_CHECKS": True,
        "CONN_MAX_AGE": 60,
        # Server-side cursors would outlive the transaction that carries the access context.
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }
    if url := read_secret("DATABASE_URL"):
        return connection | parse_database_url(url)
    var = data_folder()
    return connection | {
        "NAME": "cloister",
        "USER": f"cloister_{database_role()}",
        "HOST": str(socket_folder(var)),
        "PORT": "5432",
        "OPTIONS": {"passfile": str(var / "secrets" / "pgpass"), "connect_timeout": 3},
    }


def parse_database_url(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"} or not parts.path.strip("/"):
        raise ImproperlyConfigured("DATABASE_URL must be postgresql://user:password@host/name")
    options = dict(parse_qsl(parts.query))
    return {
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": {**NO_ANSWER_IN_TIME, **options},
    }


def broker_url() -> str:
    if url := read_secret("BROKER_URL"):
        return url
    return f"redis+socket://{socket_folder(data_folder())}/valkey.sock"


def key_file() -> Path:
    """The key-encryption key's file. Everything stored is unreadable without it."""
    if path := os.environ.get("CLOISTER_KEY_FILE"):
        return Path(path)
    return data_folder() / "secrets" / "key-encryption.key"


def checkpoints_folder() -> Path:
    """Where the log's checkpoints are kept: a mount that the database's machine cannot write."""
    if path := os.environ.get("CLOISTER_CHECKPOINTS"):
        return Path(path)
    return data_folder() / "checkpoints"


def expects_checkpoints() -> bool:
    """Whether the folder is named by the operator: then an empty one is a finding."""
    return bool(os.environ.get("CLOISTER_CHECKPOINTS"))


def metrics_folder() -> Path:
    """Where the index's metrics are written; a node exporter may be given this folder to read."""
    if path := os.environ.get("CLOISTER_METRICS"):
        return Path(path)
    return private_folder(data_folder() / "metrics")


def log_server() -> tuple[str | None, Path | None]:
    """A syslog server over TLS, host or host:port, and the file of whom its certificate is from."""
    server, authority = os.environ.get("CLOISTER_SYSLOG"), os.environ.get("CLOISTER_SYSLOG_CA")
    return server or None, Path(authority) if authority else None


def detectors_file() -> Path | None:
    """The operator's list of further face detectors, if there is one."""
    path = os.environ.get("CLOISTER_DETECTORS")
    return Path(path).resolve() if path else None


def officer_mail() -> tuple[str | None, str, int]:
    """Whom break-glass is mailed to, if anybody, and the mail server's host and port."""
    host, _, port = os.environ.get("CLOISTER_SMTP", "127.0.0.1").partition(":")
    if port and not port.isdecimal():
        raise ImproperlyConfigured("CLOISTER_SMTP must be host or host:port")
    return os.environ.get("CLOISTER_OFFICER_MAIL") or None, host, int(port or 25)


def session_limits() -> tuple[int, int]:
    """After how many minutes without a request, and how many hours at most, a session ends."""
    idle_min = _whole_number("CLOISTER_SESSION_IDLE_MIN", 30, most=24 * 60)
    max_hours = _whole_number("CLOISTER_SESSION_MAX_HOURS", 10, most=7 * 24)
    return idle_min, max_hours


def _whole_number(name: str, default: int, *, most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ImproperlyConfigured(f"{name} must be a whole number from 1 to {most}")
    return int(text)


def trusted_proxies() -> list[IPv4Network | IPv6Network]:
    """Addresses or networks of the proxies whose X-Forwarded-For counts."""
    texts = os.environ.get("CLOISTER_TRUSTED_PROXIES", "").replace(",", " ").split()
    try:
        return [ip_network(text) for text in texts]
    except ValueError as error:
        raise ImproperlyConfigured("CLOISTER_TRUSTED_PROXIES must be addresses") from error


def sign_in_file() -> Path | None:
    """The operator's file about the organisation's directory, if there is one."""
    path = os.environ.get("CLOISTER_SIGN_IN")
    return Path(path) if path else None
