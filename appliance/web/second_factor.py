"""Whether a session was opened with a second factor, and how long ago."""

import time
from typing import Final

from django.http import HttpRequest

from retrieval import second_factor
from retrieval.models import Authenticator, User

AUTHENTICATOR: Final = "authenticator"
PASSED_AT: Final = "second_factor_at"


def remember(request: HttpRequest) -> None:
    """The second factor was shown just now. The session goes on under another key."""
    authenticator = Authenticator.objects.get(user=request.user.pk)
    request.session.cycle_key()
    request.session[AUTHENTICATOR] = authenticator.pk
    request.session[PASSED_AT] = int(time.time())


def is_passed(request: HttpRequest) -> bool:
    """Whether this session showed the second factor that its user has now."""
    authenticator = request.session.get(AUTHENTICATOR)
    return (
        authenticator is not None
        and Authenticator.objects.filter(pk=authenticator, user=request.user.pk).exists()
    )


def is_passed_within(request: HttpRequest, minutes: int) -> bool:
    """Whether that was at most `minutes` ago: for what is worth being asked again.

    Where it was not, send the visitor to `second_factor` with this page as `next`.
    """
    age_s = time.time() - request.session.get(PASSED_AT, 0)
    return 0 <= age_s <= 60 * minutes and is_passed(request)


def is_missing(request: HttpRequest, user: User) -> bool:
    """Whether this session shows nothing yet, by its user's rights or by its user's choice."""
    if is_passed(request):
        return False
    return second_factor.is_enrolled(user) or second_factor.is_required(user)
