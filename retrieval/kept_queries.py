"""What was asked, kept apart from the log: sealed, for as long as a collection's policy wants it.

The log has a keyed hash of a query's words. Where one of the searched collections says for how
many days, the words and example images are kept as well, under a key of their own; the longest of
the wanted times counts. An officer with the right reads the words, one query at a time and on the
log. An example image is an original, and takes what one takes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NoReturn
from uuid import UUID, uuid4

from django.db import connection, transaction
from django.utils import timezone

from retrieval import access, audit, keys
from retrieval.errors import AccessDenied
from retrieval.models import Collection, KeptQuery, Kind, Purpose, User

RIGHT: Final = "retrieval.view_keptquery"


@dataclass(frozen=True)
class Asked:
    """A kept query's content. images: how many example images there are, see `read_image`."""

    words: str = field(repr=False)
    images: int


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
            collections=[c.pk for c in searched],
            wrapped_key=wrapped,
            sealed_words=keys.seal(words.encode(), key=key, context=b"words"),
            sealed_image=keys.seal(packed, key=key, context=b"images"),
            delete_after=timezone.now() + timedelta(days=days),
        )


def read(kept_id: UUID, *, actor: User) -> Asked:
    """The words of one kept query. The reading is on the log before this returns.

    Raises AccessDenied, on the log as well, without the right to and where there is none (any
    more); AuditUnavailable.
    """
    kept = _authorised(kept_id, actor)
    _record_reading(kept, actor)
    key = keys.unwrap_query_key(bytes(kept.wrapped_key), kept_id)
    words = keys.unseal(bytes(kept.sealed_words), key=key, context=b"words").decode()
    return Asked(words, len(_images(kept)))


def read_image(kept_id: UUID, number: int, *, actor: User) -> bytes:
    """One example image, counted from 1, as it was sent: nothing in it was covered.

    So it takes what an original takes: who reads it broke the glass, for originals, of a collection
    that was searched with it. The reading is on the log before this returns. Raises AccessDenied,
    on the log as well; AuditUnavailable.
    """
    kept = _authorised(kept_id, actor)
    images = _images(kept)
    opened = access.opened_by_glass(actor, originals=True)
    if not 1 <= number <= len(images) or not set(opened) & set(kept.collections):
        _refuse(kept_id, actor)
    _record_reading(kept, actor, image=number)
    return images[number - 1]


def _authorised(kept_id: UUID, actor: User) -> KeptQuery:
    with access.acting_as(actor, Purpose.ADMINISTRATION):
        kept = KeptQuery.objects.filter(pk=kept_id).first()
    if kept is None or not actor.has_perm(RIGHT):
        _refuse(kept_id, actor)
    return kept


def _refuse(kept_id: UUID, actor: User) -> NoReturn:
    audit.record(Kind.QUERY_DENIED, actor=actor, purpose=Purpose.ADMINISTRATION, query=kept_id)
    raise AccessDenied(f"user {actor.pk} has no such query to read")


def _record_reading(kept: KeptQuery, actor: User, image: int | None = None) -> None:
    audit.record(
        Kind.QUERY_READ,
        actor=actor,
        purpose=Purpose.ADMINISTRATION,
        query=kept.pk,
        entry=kept.entry,
        user=kept.actor_id,
        image=image,
    )


def _images(kept: KeptQuery) -> list[bytes]:
    key = keys.unwrap_query_key(bytes(kept.wrapped_key), kept.pk)
    packed = keys.unseal(bytes(kept.sealed_image), key=key, context=b"images")
    images = []
    while packed:
        (length,) = struct.unpack_from(">I", packed)
        images.append(packed[4 : 4 + length])
        packed = packed[4 + length :]
    return images


def sweep() -> int:
    """Delete what has been kept for as long as was wanted, as a worker's role; how many."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT cloister_sweep_kept_queries()")
            (deleted,) = cursor.fetchone()
        if deleted:
            audit.record_in_transaction(Kind.QUERIES_DELETED, actor=None, count=deleted)
    return int(deleted)
