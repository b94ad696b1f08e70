"""Large files that come in part by part: after an interruption only the rest is sent again.

A part is sealed before it touches the disk, and a file that is whole goes through the same door as
every other (`receive.receive`).
"""

import io
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final, cast
from uuid import UUID, uuid4

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from retrieval import access, keys, receive, storage
from retrieval.errors import (
    AccessDenied,
    LimitReached,
    OutOfStep,
    Reason,
    Rejected,
    ServicesUnavailable,
    StorageCorrupt,
)
from retrieval.models import ImportBatch, Purpose, Upload, User
from retrieval.models.grant import Capability

MAX_PART_BYTES: Final = 8 * 1024 * 1024
MIN_PART_BYTES: Final = 256 * 1024
"""Of all parts but the last: a file of many small ones costs more than it holds."""
LIFETIME: Final = timedelta(days=1)
MAX_OPEN: Final = 100


def start(batch: ImportBatch, name: str, size: int, *, actor: User, purpose: Purpose) -> Upload:
    """Announce a file of `size` bytes. Raises Rejected, LimitReached and AccessDenied."""
    if size > receive.MAX_FILE_BYTES:
        raise Rejected(Reason.FILE_TOO_LARGE)
    upload_id = uuid4()
    sealed_name = keys.seal_upload(
        receive.checked_name(name).encode(), context=_context(upload_id, "name")
    )
    with access.acting_as(actor, purpose):
        access.require(actor, purpose, Capability.INGEST, batch.collection_id)
        mine = Upload.objects.filter(account=actor, expires_at__gt=timezone.now())
        if mine.filter(image=None).count() >= MAX_OPEN:
            raise LimitReached("too many uploads are open", 3600)
        return Upload.objects.create(
            pk=upload_id,
            account=actor,
            collection_id=batch.collection_id,
            batch=batch,
            sealed_name=sealed_name,
            size=size,
            expires_at=timezone.now() + LIFETIME,
        )


def find(upload_id: UUID, *, actor: User, purpose: Purpose) -> Upload:
    """One's own upload. Others', expired and missing ones raise the same AccessDenied."""
    with access.acting_as(actor, purpose):
        return _own(upload_id, actor)


def append(
    upload_id: UUID, offset: int, content: bytes, *, actor: User, purpose: Purpose
) -> Upload:
    """The next part. Raises OutOfStep where it begins elsewhere than where the last one ended."""
    with access.acting_as(actor, purpose):
        upload = _own(upload_id, actor, lock=True)
        if offset != upload.received or upload.image is not None:
            raise OutOfStep(upload.received)
        end = offset + len(content)
        if not content or end > upload.size or len(content) > MAX_PART_BYTES:
            raise Rejected(Reason.FILE_TOO_LARGE if content else Reason.EMPTY_FILE)
        if end < upload.size and len(content) < MIN_PART_BYTES:
            raise Rejected(Reason.TOO_SMALL)
        _write(
            _part(upload, offset), keys.seal_upload(content, context=_context(upload.pk, offset))
        )
        upload.received = end
        upload.save(update_fields=["received"])
    return upload


def finish(upload_id: UUID, *, actor: User, purpose: Purpose) -> Upload:
    """Take the whole file in; `image` and `is_new` say what it became. Right if run twice.

    Raises OutOfStep for one that is not whole, and what `receive.receive` raises.
    """
    upload = find(upload_id, actor=actor, purpose=purpose)
    if upload.image is not None:
        return upload
    if upload.received != upload.size:
        raise OutOfStep(upload.received)
    name = keys.unseal_upload(bytes(upload.sealed_name), context=_context(upload.pk, "name"))
    candidate = receive.Candidate(name.decode(), lambda: _whole(upload))
    try:
        image, is_new = receive.receive(candidate, upload.batch, actor=actor, purpose=purpose)
    except Rejected:
        receive.count_refused(upload.batch, 1, actor=actor, purpose=purpose)
        give_up(upload.pk, actor=actor, purpose=purpose)
        raise
    with access.acting_as(actor, purpose):
        upload.image, upload.is_new = image.pk, is_new
        upload.save(update_fields=["image", "is_new"])
    _remove_parts(upload.pk)
    return upload


def give_up(upload_id: UUID, *, actor: User, purpose: Purpose) -> None:
    with access.acting_as(actor, purpose):
        upload = _own(upload_id, actor, lock=True)
        _remove_parts(upload.pk)
        upload.delete()


def sweep() -> int:
    """Forget what expired an hour ago, everybody's, as a worker's role; how many."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT cloister_sweep_uploads()")
        swept = [upload_id for (upload_id,) in cursor.fetchall()]
        # Before the rows are gone for good: whatever stops this here, the next sweep finds them.
        for upload_id in swept:
            _remove_parts(upload_id)
    return len(swept)


def _own(upload_id: UUID, actor: User, *, lock: bool = False) -> Upload:
    rows = Upload.objects.select_for_update(of=("self",)) if lock else Upload.objects
    upload = (
        rows.filter(pk=upload_id, account=actor, expires_at__gt=timezone.now())
        .select_related("batch")
        .first()
    )
    if upload is None:
        raise AccessDenied(f"user {actor.pk} has no such upload")
    return upload


def _whole(upload: Upload) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Parts(_contents(upload)), storage.CHUNK_BYTES))


def _contents(upload: Upload) -> Iterator[bytes]:
    offset = 0
    while offset < upload.size:
        try:
            sealed = _part(upload, offset).read_bytes()
        except OSError as error:
            raise StorageCorrupt(f"a part of upload {upload.pk} is gone") from error
        content = keys.unseal_upload(sealed, context=_context(upload.pk, offset))
        offset += len(content)
        yield content


class _Parts(io.RawIOBase):
    """Parts as one file that is read once."""

    def __init__(self, contents: Iterator[bytes]) -> None:
        self._contents, self._rest = contents, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as io calls it
        self._rest = self._rest or next(self._contents, b"")
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _folder(upload_id: UUID) -> Path:
    return Path(settings.CLOISTER_STORE) / "uploads" / upload_id.hex


def _part(upload: Upload, offset: int) -> Path:
    return _folder(upload.pk) / f"{offset:012d}.part"


def _context(upload_id: UUID, what: int | str) -> bytes:
    return f"{upload_id} {what}".encode()


def _write(path: Path, sealed: bytes) -> None:
    """Replaces a part whose row was not committed."""
    draft = path.with_suffix(f".{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ServicesUnavailable("the store cannot be written") from error


def _remove_parts(upload_id: UUID) -> None:
    """Raises ServicesUnavailable where some of it stays: then the row stays as well."""
    try:
        shutil.rmtree(_folder(upload_id))
    except FileNotFoundError:
        return  # nothing came in, or it is gone already
    except OSError as error:
        raise ServicesUnavailable("the store cannot be written") from error
