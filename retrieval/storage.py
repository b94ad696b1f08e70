"""Encrypted objects on disk: originals and their de-identified derivatives.

An object is a header and sealed chunks, so that a large file passes through little memory:
STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015, section 5) over AES-256-GCM. The nonce is
prefix, chunk number and a last-chunk mark: chunks cannot be re-ordered, dropped or cut off.
"""

import io
import os
import secrets
import struct
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from retrieval import keys
from retrieval.errors import ServicesUnavailable, StorageCorrupt
from retrieval.models import Image

MAGIC = b"CLOISTER1"
PREFIX_BYTES = 7
CHUNK_BYTES = 1024 * 1024
TAG_BYTES = 16


class Form(StrEnum):
    """What an object holds. Only PREVIEW and THUMBNAIL are ever shown; ORIGINAL only decoded.

    REPORT_ORIGINAL is the text that came with the picture, REPORT what encoders read of it.
    """

    ORIGINAL = "original"
    PREVIEW = "preview"
    THUMBNAIL = "thumbnail"
    REPORT_ORIGINAL = "report-original"
    REPORT = "report"


def path_of(image_id: UUID, form: Form) -> Path:
    name = image_id.hex
    return Path(settings.CLOISTER_STORE) / name[:2] / name[2:4] / f"{name}.{form}"


def write(image_id: UUID, form: Form, chunks: Iterator[bytes], *, data_key: bytes) -> None:
    """Store an object whole or not at all, replacing an earlier one.

    Raises ServicesUnavailable where the disk takes no more; a retry helps once there is room.
    """
    path = path_of(image_id, form)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(draft, "xb", opener=_private) as file:
            _seal_stream(file, chunks, data_key, _context(image_id, form))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise ServicesUnavailable("the store cannot be written") from error
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(image: Image, form: Form, content: bytes) -> None:
    write(image.pk, form, io_chunks(io.BytesIO(content)), data_key=_data_key(image))


def read(image: Image, form: Form) -> bytes:
    """The object's content. Raises StorageCorrupt where it is missing or was altered."""
    try:
        sealed = path_of(image.pk, form).read_bytes()
    except FileNotFoundError as error:
        raise StorageCorrupt(f"image {image.pk} has no stored {form}") from error
    return b"".join(_unseal_stream(sealed, _data_key(image), _context(image.pk, form)))


def remove(image_id: UUID) -> None:
    for form in Form:
        path_of(image_id, form).unlink(missing_ok=True)


def source_name(image: Image) -> str:
    """The file name it came under: for those with SEE_SOURCE_NAMES only, it may be a person's."""
    sealed = bytes(image.sealed_name)
    return keys.unseal(sealed, key=_data_key(image), context=b"source name").decode()


def seal_source_name(name: str, *, data_key: bytes) -> bytes:
    return keys.seal(name.encode(), key=data_key, context=b"source name")


def io_chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _data_key(image: Image) -> bytes:
    return keys.unwrap_data_key(bytes(image.wrapped_key), image.pk)


def _context(image_id: UUID, form: Form) -> bytes:
    return image_id.bytes + form.encode()


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + struct.pack(">I?", number, last)


def _seal_stream(file: BinaryIO, chunks: Iterator[bytes], key: bytes, context: bytes) -> None:
    cipher, prefix = AESGCM(key), secrets.token_bytes(PREFIX_BYTES)
    file.write(MAGIC + prefix)
    number, held = 0, next(chunks, b"")
    for chunk in chunks:
        file.write(cipher.encrypt(_nonce(prefix, number, last=False), held, context))
        number, held = number + 1, chunk
    file.write(cipher.encrypt(_nonce(prefix, number, last=True), held, context))


def _unseal_stream(sealed: bytes, key: bytes, context: bytes) -> Iterator[bytes]:
    start = len(MAGIC) + PREFIX_BYTES
    if not sealed.startswith(MAGIC) or len(sealed) < start + TAG_BYTES:
        raise StorageCorrupt("a stored object has no header")
    cipher, prefix, view = AESGCM(key), sealed[len(MAGIC) : start], memoryview(sealed)
    size = CHUNK_BYTES + TAG_BYTES
    offsets = range(start, len(sealed), size)
    try:
        for number, offset in enumerate(offsets):
            nonce = _nonce(prefix, number, last=number == len(offsets) - 1)
            yield cipher.decrypt(nonce, view[offset : offset + size], context)
    except InvalidTag as error:
        raise StorageCorrupt("a stored object was altered or sealed with another key") from error
