"""Requests that may come twice: under one key of a program's own they are carried out once."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from django.utils import timezone

from retrieval import access, keys
from retrieval.errors import KeyReused, StillWorking
from retrieval.models import IdempotentAnswer, Purpose, User

REMEMBERED: Final = timedelta(days=1)
GIVEN_UP_AFTER: Final = timedelta(minutes=10)
"""Whoever worked on it for so long without an answer has died."""


def once(
    key: str, request: str, work: Callable[[], dict[str, Any]], *, actor: User, purpose: Purpose
) -> tuple[dict[str, Any], bool]:
    """What `work` returns (ids and codes), or what it returned for this key before, and which.

    `request`: what is asked for, with all that it holds. Raises KeyReused where the key came with
    another request, StillWorking where the first one is not done. A failure is not remembered.
    """
    hashed = keys.keyed_hash(key, use="idempotency keys")
    asked = keys.keyed_hash(request, use="idempotent requests")
    known = _claim(hashed, asked, actor, purpose)
    if known is not None:
        return known, True
    try:
        answer = work()
    except BaseException:
        with access.acting_as(actor, purpose):
            IdempotentAnswer.objects.filter(account=actor, key=hashed).delete()
        raise
    with access.acting_as(actor, purpose):
        IdempotentAnswer.objects.filter(account=actor, key=hashed).update(answer=answer)
    return answer, False


def _claim(hashed: str, asked: str, actor: User, purpose: Purpose) -> dict[str, Any] | None:
    """None: it is ours to carry out."""
    now = timezone.now()
    with access.acting_as(actor, purpose):
        mine = IdempotentAnswer.objects.filter(account=actor)
        mine.filter(asked_at__lte=now - REMEMBERED).delete()
        mine.filter(key=hashed, answer__isnull=True, asked_at__lte=now - GIVEN_UP_AFTER).delete()
        known, is_new = IdempotentAnswer.objects.get_or_create(
            account=actor, key=hashed, defaults={"request": asked}
        )
    if is_new:
        return None
    if known.request != asked:
        raise KeyReused("an idempotency key came with another request before")
    if known.answer is None:
        raise StillWorking("the same request is being worked on")
    found: dict[str, Any] = known.answer
    return found
