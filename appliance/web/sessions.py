"""Sessions in the database: whose they are, since when, and when they end.

Settings name this module as the session engine. A session ends by itself after a while without
a request, and after the longest time since its sign-in whatever happens; a row that is deleted
ends it at the next request.
"""

import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db
from django.db.models import Q, QuerySet
from django.utils import timezone

from retrieval.models import Session, User

STARTED_AT: Final = "started_at"

SEEN_EVERY_S: Final = 60
"""How exact the time of the last request is: a row is written once a minute, not at each."""


class SessionStore(db.SessionStore):
    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    @property
    def key_salt(self) -> str:
        # Data signed for one session open in no other: not even a superuser of the database makes
        # the own session somebody else's by copying a column.
        return f"cloister session {_hash(self.session_key)}"

    def _get_session_from_db(self) -> Session | None:
        now = timezone.now()
        row = live().filter(pk=_hash(self.session_key)).first()
        if row is None:
            self._session_key = None
        elif (now - row.seen_at).total_seconds() >= SEEN_EVERY_S:
            Session.objects.filter(pk=row.pk).update(seen_at=now)
        return row

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        started = data.setdefault(STARTED_AT, int(time.time()))
        row = super().create_model_instance(data)
        assert isinstance(row, Session)  # noqa: S101  made of the class above
        row.session_key = _hash(self.session_key)
        user_id = data.get(SESSION_KEY)
        row.user_id = None if user_id is None else int(user_id)
        row.started_at = datetime.fromtimestamp(started, UTC)
        row.seen_at = timezone.now()
        return row

    def exists(self, session_key: str | None = None) -> bool:
        return Session.objects.filter(pk=_hash(session_key)).exists()

    def delete(self, session_key: str | None = None) -> None:
        Session.objects.filter(pk=_hash(session_key or self.session_key)).delete()

    @classmethod
    def clear_expired(cls) -> None:
        Session.objects.exclude(pk__in=live().values("pk")).delete()


def live() -> QuerySet[Session]:
    """The sessions that are not over."""
    now = timezone.now()
    return Session.objects.filter(
        expire_date__gt=now,
        seen_at__gt=now - timedelta(minutes=settings.CLOISTER_SESSION_IDLE_MIN),
        started_at__gt=now - timedelta(hours=settings.CLOISTER_SESSION_MAX_HOURS),
    )


def of_user(user: User) -> QuerySet[Session]:
    return live().filter(user=user).order_by("-seen_at")


def end(user: User, *, but: str | None = None) -> int:
    """End the user's sessions at their next request. but: the key of one that goes on."""
    ended, _ = Session.objects.filter(Q(user=user) & ~Q(pk=_hash(but))).delete()
    return ended


def is_own(session: Session, key: str | None) -> bool:
    return session.pk == _hash(key)


def _hash(key: str | None) -> str:
    return hashlib.sha256((key or "").encode()).hexdigest()
