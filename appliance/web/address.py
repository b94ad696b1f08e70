"""Where a request comes from."""

from ipaddress import ip_address

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str | None:
    """The client's IP address, or None where there is none, as on a socket.

    What a client claims of itself counts for nothing: X-Forwarded-For is read from its end, as
    far as proxies of ours (CLOISTER_TRUSTED_PROXIES) have written it.
    """
    hops = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    nearest = _address(request.META.get("REMOTE_ADDR", ""))
    while nearest is not None and _is_ours(nearest) and hops:
        further = _address(hops.pop())
        if further is None:
            break
        nearest = further
    return nearest


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text.strip()))
    except ValueError:
        return None


def _is_ours(address: str) -> bool:
    return any(ip_address(address) in network for network in settings.CLOISTER_TRUSTED_PROXIES)
