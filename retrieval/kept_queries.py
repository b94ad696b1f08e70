"""What was asked, kept apart from the log: sealed, for as long as a collection's policy wants it.

The log has a keyed hash of a query's words. Where one of the searched collections says for how
many days, the words and example images are kept as well, under a key of their own; the longest of
the wanted times counts. An officer with the right reads them, one at a time and on the log.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from django.db import connection, transaction
from django.utils import timezone

from retrieval import access, audit, keys
from retrieval.errors import AccessDenied
from retrieval.models import Collection, KeptQuery, Kind, Purpose, User

RIGHT: Final = "retrieval.view_keptquery"


@dataclass(frozen=True)
class Asked:
    """A kept query's content. images: files as they were sent, not de-identified."""

    words: str = field(repr=False)
    images: tuple[bytes, ...] = field(repr=False)


def keep(
    entry: int,
    *,
    words: str,
    images: Sequence[bytes],
    searched: Sequence[Collection],
    actor: User,
    purpose: Purpose,
) -> None:
    """Keep what entry `entry` of the log tells of by hash, where a searched collection wants it."""
    days = max((c.keep_queries_days or 0 for c in searched), default=0)
    if not days:
        return
    kept_id = uuid4()
    key, wrapped = keys.new_query_key(kept_id)
    packed = b"".join(struct.pack(">I", len(image)) + image for image in images)
    with access.acting_as(actor, purpose):
        KeptQuery.objects.create(
            pk=kept_id,
            entry=entry,
            actor=actor,
            wrapped_key=wrapped,
            sealed_words=keys.seal(words.encode(), key=key, context=b"words"),
            sealed_image=keys.seal(packed, key=key, context=b"images"),
            delete_after=timezone.now() + timedelta(days=days),
        )


def read(kept_id: UUID, *, actor: User) -> Asked:
    """The words and images of one kept query. The reading is on the log before this returns.

    Raises AccessDenied, on the log as well, without the right to and where there is none (any
    more); AuditUnavailable.
    """
    with access.acting_as(actor, Purpose.ADMINISTRATION):
        kept = KeptQuery.objects.filter(pk=kept_id).first()
    if kept is None or not actor.has_perm(RIGHT):
        audit.record(Kind.QUERY_DENIED, actor=actor, purpose=Purpose.ADMINISTRATION, query=kept_id)
        raise AccessDenied(f"user {actor.pk} has no such query to read")
    audit.record(
        Kind.QUERY_READ,
        actor=actor,
        purpose=Purpose.ADMINISTRATION,
        query=kept_id,
        entry=kept.entry,
        user=kept.actor_id,
    )
    key = keys.unwrap_query_key(bytes(kept.wrapped_key), kept_id)
    words = keys.unseal(bytes(kept.sealed_words), key=key, context=b"words").decode()
    packed = keys.unseal(bytes(kept.sealed_image), key=key, context=b"images")
    images = []
    while packed:
        (length,) = struct.unpack_from(">I", packed)
        images.append(packed[4 : 4 + length])
        packed = packed[4 + length :]
    return Asked(words, tuple(images))


def sweep() -> int:
    """Delete what has been kept for as long as was wanted, as a worker's role; how many."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT cloister_sweep_kept_queries()")
            (deleted,) = cursor.fetchone()
        if deleted:
            audit.record_in_transaction(Kind.QUERIES_DELETED, actor=None, count=deleted)
    return int(deleted)
