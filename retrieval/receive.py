"""The door: every file is refused with one reason, or stored encrypted with its first work due."""

import itertools
import lzma
import os
import stat
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hmac import HMAC
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from uuid import UUID, uuid4

from django.db import IntegrityError
from django.db.models import F

from retrieval import access, audit, keys, media, outbox, storage
from retrieval.errors import AccessDenied, Reason, Rejected
from retrieval.models import Collection, Image, ImportBatch, Kind, Purpose, Report, Stage, User
from retrieval.models.grant import Capability

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_NAME_CHARS = 1024
TEXT_SUFFIX = ".txt"
"""Of what may be a picture's report, in either case."""
UNSAFE_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
"""Controls, lone surrogates, line and paragraph ends: they forge lines in a report."""
TURNING = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Direction marks: they make a name read as another."""
MAX_ARCHIVE_MEMBERS = 100_000
MAX_ARCHIVE_BYTES = 8 * 1024**3
MAX_ARCHIVE_RATIO = 200
"""Unpacked to packed size. Pictures are compressed already: no honest archive comes near."""

# zipfile raises NotImplementedError and RuntimeError for methods and passwords it does not know,
# ValueError for names it cannot decode.
READING_FAILS_WITH = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Candidate:
    """A file that may become an image. `open` may raise Rejected or OSError.

    `report`: the text beside it, see `_Beside`.
    """

    name: str
    open: Callable[[], BinaryIO]
    report: "Candidate | None" = None


@dataclass(frozen=True)
class Refusal:
    """A file that was turned away before it was read."""

    name: str
    reason: Reason


def start_batch(collection: Collection, *, actor: User, purpose: Purpose) -> ImportBatch:
    """Open an import. Raises AccessDenied, on the log, for who may not ingest there."""
    try:
        access.require(actor, purpose, Capability.INGEST, collection.pk)
    except AccessDenied:
        record_denied(collection.pk, actor=actor, purpose=purpose)
        raise
    with access.acting_as(actor, purpose):
        batch = ImportBatch.objects.create(collection=collection, started_by=actor)
        audit.record_in_transaction(
            Kind.IMPORT_STARTED,
            actor=actor,
            purpose=purpose,
            collection=collection.pk,
            batch=batch.pk,
        )
    return batch


def record_denied(collection_id: int, *, actor: User, purpose: Purpose) -> None:
    audit.record(Kind.IMPORT_DENIED, actor=actor, purpose=purpose, collection=collection_id)


def own_batch(
    batch_id: UUID, *, actor: User, purpose: Purpose, capability: Capability = Capability.INGEST
) -> ImportBatch:
    """An import that `actor` started. Others' and missing ones raise the same AccessDenied."""
    permitted = access.collections_where(actor, purpose, capability)
    with access.acting_as(actor, purpose):
        batch = ImportBatch.objects.filter(
            pk=batch_id, started_by=actor, collection__in=[c.pk for c in permitted]
        ).first()
    if batch is None:
        raise AccessDenied(f"user {actor.pk} has no such import")
    return batch


def count_refused(batch: ImportBatch, count: int, *, actor: User, purpose: Purpose) -> None:
    """Note files that were turned away at the door."""
    with access.acting_as(actor, purpose):
        ImportBatch.objects.filter(pk=batch.pk).update(refused=F("refused") + count)


def finish_batch(batch: ImportBatch, *, actor: User, purpose: Purpose) -> None:
    """Say on the log that nothing more comes in, and how much did."""
    with access.acting_as(actor, purpose):
        batch.refresh_from_db()
        audit.record_in_transaction(
            Kind.IMPORT_FINISHED,
            actor=actor,
            purpose=purpose,
            batch=batch.pk,
            received=batch.images.filter(video=None).count(),
            refused=batch.refused,
            reports=Report.objects.filter(batch=batch).count(),
        )


def receive(
    candidate: Candidate,
    batch: ImportBatch,
    *,
    actor: User,
    purpose: Purpose,
    tags: Sequence[str] = (),
) -> tuple[Image, bool]:
    """Store one file and make its de-identification due. False: this collection had it already.

    The file passes through in chunks of storage.CHUNK_BYTES. `tags`: of what is new, such as pass
    `tags.require_fit`; what was there keeps its own. Raises Rejected with the one reason
    why it cannot become an image, AccessDenied where the right to ingest has ended meanwhile,
    ServicesUnavailable where the store cannot be written.
    """
    name = checked_name(candidate.name)
    chunks = _read(candidate)
    with closing(chunks):
        head = next(chunks, b"")
        if not head:
            raise Rejected(Reason.EMPTY_FILE)
        media_type = media.sniff(head)
        if media_type is None or media_type == media.ZIP:
            raise Rejected(Reason.NOT_AN_IMAGE)
        return _store(
            itertools.chain([head], chunks),
            name,
            media_type,
            batch,
            actor=actor,
            purpose=purpose,
            tags=tags,
        )


def _read(candidate: Candidate) -> Generator[bytes]:
    """The file in chunks. Whatever goes wrong in reading it is one reason."""
    seen = 0
    try:
        with closing(candidate.open()) as file:
            for chunk in storage.io_chunks(file):
                seen += len(chunk)
                if seen > MAX_FILE_BYTES:
                    raise Rejected(Reason.FILE_TOO_LARGE)
                yield chunk
    except READING_FAILS_WITH as error:
        raise Rejected(Reason.UNREADABLE_FILE) from error


def _store(
    chunks: Iterator[bytes],
    name: str,
    media_type: str,
    batch: ImportBatch,
    *,
    actor: User,
    purpose: Purpose,
    tags: Sequence[str],
) -> tuple[Image, bool]:
    image_id = uuid4()
    data_key, wrapped_key = keys.new_data_key(image_id)
    content_hash = keys.content_hash(batch.collection_id)
    storage.write(image_id, storage.Form.ORIGINAL, _hashed(chunks, content_hash), data_key=data_key)
    image = Image(
        pk=image_id,
        collection_id=batch.collection_id,
        batch=batch,
        media_type=media_type,
        content_key=content_hash.digest(),
        wrapped_key=wrapped_key,
        sealed_name=storage.seal_source_name(name, data_key=data_key),
        tags=list(tags),
    )
    try:
        with access.acting_as(actor, purpose):
            access.require(actor, purpose, Capability.INGEST, batch.collection_id)
            image.save(force_insert=True)
            outbox.add(image, Stage.DEIDENTIFY)
    except IntegrityError:
        storage.remove(image_id)
        with access.acting_as(actor, purpose):
            known = Image.objects.get(
                collection_id=batch.collection_id, content_key=content_hash.digest()
            )
        return known, False
    except BaseException:
        storage.remove(image_id)
        raise
    return image, True


def checked_name(name: str) -> str:
    """`name`, where it forges no line of a report. Raises Rejected."""
    if len(name) > MAX_NAME_CHARS:
        raise Rejected(Reason.NAME_TOO_LONG)
    if any(unicodedata.category(c) in UNSAFE_CATEGORIES or c in TURNING for c in name):
        raise Rejected(Reason.UNSAFE_NAME)
    return name


def _hashed(chunks: Iterator[bytes], running: HMAC) -> Iterator[bytes]:
    for chunk in chunks:
        running.update(chunk)
        yield chunk


def walk(path: Path) -> Iterator[Candidate | Refusal]:
    """Every file under `path` (a folder, a file or a zip archive), in the order of their names.

    Links, sockets and devices in a folder are refused: they may lead out of it or never end.
    """
    if not path.is_dir():
        yield from _file_or_archive(path, path.name)
        return
    closed: list[OSError] = []
    for folder, subfolders, names in os.walk(path, onerror=closed.append):
        subfolders.sort()
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        beside = _Beside(names, partial(_head_of_file, folder))
        for name in sorted(names + links):
            file = Path(folder, name)
            shown = os.fsdecode(file.relative_to(path))
            if name in beside.ambiguous:
                yield Refusal(_printable(shown), Reason.AMBIGUOUS_REPORT)
            elif name in beside.report_of:
                text = Path(folder, beside.report_of[name])
                report_name = _printable(os.fsdecode(text.relative_to(path)))
                report = Candidate(report_name, partial(_open_file, text))
                yield from _file_or_archive(file, shown, report)
            elif name not in beside.reports:
                yield from _file_or_archive(file, shown)
    for error in closed:
        name = os.path.relpath(os.fsdecode(error.filename), path)
        yield Refusal(_printable(name), Reason.UNREADABLE_FILE)


def _printable(name: str) -> str:
    """A name from the file system with what is no UTF-8 replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


class _Beside:
    """Which texts are reports: NAME.txt beside exactly one still picture NAME of another ending.

    Beside two, or where there are two texts, nobody can tell which belongs to which. Without any
    a text is a file like others.
    """

    def __init__(self, names: Iterable[str], head: Callable[[str], bytes]) -> None:
        """head: of a file; empty where it is none that may be read."""
        self.report_of: dict[str, str] = {}
        self.ambiguous: set[str] = set()
        by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            by_stem[os.path.splitext(name)[0]].append(name)
        for together in by_stem.values():
            texts = [name for name in together if _is_text(name)]
            if not texts or len(together) == len(texts):
                continue
            pictures = [
                name for name in together if name not in texts and media.is_still(head(name))
            ]
            if len(texts) == len(pictures) == 1 and head(texts[0]):
                self.report_of[pictures[0]] = texts[0]
            elif pictures and len(texts) + len(pictures) > 2:  # noqa: PLR2004  a pair
                self.ambiguous.update(texts)
        self.reports = set(self.report_of.values())


def _is_text(name: str) -> bool:
    return os.path.splitext(name)[1].lower() == TEXT_SUFFIX


def _open_file(path: Path) -> BinaryIO:
    return path.open("rb")


def _head_of_file(folder: str, name: str) -> bytes:
    path = Path(folder, name)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(media.HEAD_BYTES)
    except OSError:
        return b""


def _file_or_archive(
    path: Path, name: str, report: Candidate | None = None
) -> Iterator[Candidate | Refusal]:
    name = _printable(name)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            yield Refusal(name, Reason.UNREADABLE_FILE)
            return
        with path.open("rb") as file:
            is_archive = media.sniff(file.read(media.HEAD_BYTES)) == media.ZIP
    except OSError:
        yield Refusal(name, Reason.UNREADABLE_FILE)
        return
    if is_archive:
        yield from _archive(path, name)
    else:
        yield Candidate(name, partial(_open_file, path), report)


def _archive(path: Path, name: str) -> Iterator[Candidate | Refusal]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if reason := _too_much(members):
                yield Refusal(name, reason)
                return
            by_name = {member.filename: member for member in members}
            # By every member: of two with one name nobody can tell which is meant.
            names = [member.filename for member in members]
            beside = _Beside(names, lambda each: _head_of_member(archive, by_name[each]))
            for member in members:
                full_name = f"{name}/{member.filename}"
                if _leads_out(member):
                    yield Refusal(full_name, Reason.UNSAFE_NAME)
                elif member.file_size > MAX_FILE_BYTES or _is_bomb(member):
                    yield Refusal(full_name, Reason.FILE_TOO_LARGE)
                elif member.filename in beside.ambiguous:
                    yield Refusal(full_name, Reason.AMBIGUOUS_REPORT)
                elif member.filename not in beside.reports:
                    found = Candidate(full_name, partial(_open_member, archive, member))
                    if text := beside.report_of.get(member.filename):
                        opened = partial(_open_member, archive, by_name[text])
                        found = replace(found, report=Candidate(f"{name}/{text}", opened))
                    yield found
    except READING_FAILS_WITH:
        yield Refusal(name, Reason.ARCHIVE_DAMAGED)


def _too_much(members: list[zipfile.ZipInfo]) -> Reason | None:
    honest = sum(m.file_size for m in members if not _is_bomb(m))
    if len(members) > MAX_ARCHIVE_MEMBERS or honest > MAX_ARCHIVE_BYTES:
        return Reason.ARCHIVE_TOO_LARGE
    return None


def _is_bomb(member: zipfile.ZipInfo) -> bool:
    return member.file_size > MAX_ARCHIVE_RATIO * max(member.compress_size, 1024)


def _leads_out(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    return path.is_absolute() or ".." in path.parts or is_link


def _head_of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if _leads_out(member) or _is_bomb(member):
        return b""
    try:
        with archive.open(member) as file:
            return file.read(media.HEAD_BYTES)
    except READING_FAILS_WITH:
        return b""


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    # zipfile reads no further than the declared size, and that was checked.
    return cast(BinaryIO, archive.open(member))
