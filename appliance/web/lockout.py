"""Who guesses passwords waits. django-axes counts; what is counted and how far is said here."""

from typing import Any, Final

from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from retrieval import audit

MOST_FAILURES: Final = {
    ("username", "ip_address"): 5,
    # A hundred addresses guess one password together; locking it all too soon would lock out its
    # owner for a stranger's sake.
    ("username",): 25,
    # One address tries one password on everybody; behind it may be a whole ward.
    ("ip_address",): 100,
}
"""After how many failures within the cool-off the next try is not looked at."""


def parameters(_request: HttpRequest, _credentials: dict[str, Any] | None) -> list[list[str]]:
    return [list(names) for names in MOST_FAILURES]


class Handler(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    def user_login_failed(
        self,
        sender: object,
        credentials: dict[str, Any],
        request: HttpRequest | None = None,
        **_signal: object,
    ) -> None:
        """Count, and nothing else: axes would keep the form as well, and what stood in it."""
        if "username" not in credentials:
            return  # an OpenID provider's answer: nothing was guessed here
        self.clean_expired_user_attempts(request, credentials)
        state: Any = request
        if state.axes_locked_out:
            return  # a try that was not looked at does not lengthen the wait
        with transaction.atomic():
            counted, is_first = AccessAttempt.objects.select_for_update().get_or_create(
                username=username(state, credentials),
                ip_address=state.axes_ip_address,
                user_agent="",
                defaults={"failures_since_start": 1},
            )
            if not is_first:
                counted.failures_since_start += 1
                counted.attempt_time = state.axes_attempt_time
                counted.save(update_fields=["failures_since_start", "attempt_time"])
        state.axes_locked_out = self.is_locked(request, credentials)

    def get_failures(self, request: HttpRequest, credentials: dict[str, Any] | None = None) -> int:
        """The failures of the rule that is nearest to its end, in hundredths of its limit."""
        if credentials is not None and credentials.get("username") is None:
            return 0
        counted = [
            sum(attempts.values_list("failures_since_start", flat=True))
            for attempts in self.get_user_attempts(request, credentials)
        ]
        limits = MOST_FAILURES.values()
        return max(100 * int(n) // most for n, most in zip(counted, limits, strict=True))

    def reset_user_attempts(
        self, request: HttpRequest, credentials: dict[str, Any] | None = None
    ) -> int:
        """Signed in, the own failures are forgotten; not those of others at the same address."""
        name = username(request, credentials)
        forgotten, _ = AccessAttempt.objects.filter(username=name).delete()
        return int(forgotten)


def username(request: HttpRequest, credentials: dict[str, Any] | None = None) -> str:
    """What stands for the name typed: a keyed hash, since people type passwords there as well.

    Directories do not tell capital letters apart, so neither does the count.
    """
    typed = (credentials or {}).get("username") or request.POST.get("username", "")
    return audit.fingerprint(str(typed).casefold())


def answer(
    _request: HttpRequest, response: HttpResponse, _credentials: dict[str, Any] | None
) -> HttpResponse:
    """The page as it is, which says so; the same for accounts that do not exist."""
    response.status_code = 429
    return response
