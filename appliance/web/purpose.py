"""Who asks, and why: every page acts as one user for one declared purpose of use."""

from django.http import HttpRequest

from retrieval import access
from retrieval.errors import AccessDenied
from retrieval.models import Purpose, User
from retrieval.models.grant import Capability

SESSION_KEY = "purpose"


def actor_of(request: HttpRequest) -> User:
    """The signed-in user. Raises AccessDenied where nobody is."""
    if not isinstance(request.user, User):
        raise AccessDenied("nobody is signed in")
    return request.user


def granted_to(user: User) -> list[Purpose]:
    """The purposes for which there is anything to see."""
    return [p for p in Purpose if access.collections_where(user, p, Capability.VIEW)]


def of_session(request: HttpRequest) -> Purpose:
    """The declared purpose, or the first one granted. What it opens is looked up at each use."""
    declared = request.session.get(SESSION_KEY)
    if declared in Purpose.values:
        return Purpose(declared)
    first = next(iter(granted_to(actor_of(request))), Purpose.TREATMENT)
    declare(request, first)
    return first


def declare(request: HttpRequest, purpose: Purpose) -> None:
    request.session[SESSION_KEY] = purpose.value
