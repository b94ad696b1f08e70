"""A signed head of the log's tree, in the form of C2SP's signed notes and log checkpoints.

<origin>
<number of entries>
<head of the tree, base64>
time <when it was taken, UTC>

— <origin> <base64 of the key's id and the Ed25519 signature>
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from retrieval.audit.merkle import HASH_BYTES
from retrieval.errors import CheckpointInvalid

ED25519: Final = b"\x01"
"""The signature type of signed notes: it is part of the key's id."""

KEY_ID_BYTES: Final = 4
SIGNATURE_BYTES: Final = 64
MAX_NOTE_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Checkpoint:
    """`root` is the head of the first `size` entries' tree."""

    origin: str
    size: int
    root: bytes
    taken_at: str

    def text(self) -> str:
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\ntime {self.taken_at}\n"


def taken_now(size: int, root: bytes, key: Ed25519PublicKey) -> Checkpoint:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Checkpoint(origin_of(key), size, root, at)


def origin_of(key: Ed25519PublicKey) -> str:
    """The log's name: it follows the key, so that two appliances' logs are not mistaken."""
    return f"cloister/{hashlib.sha256(_raw(key)).hexdigest()[:16]}"


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    text = checkpoint.text()
    signature = _key_id(checkpoint.origin, key.public_key()) + key.sign(text.encode())
    return f"{text}\n— {checkpoint.origin} {base64.b64encode(signature).decode()}\n"


def read(note: str, key: Ed25519PublicKey) -> Checkpoint:
    """The checkpoint of a signed note. Raises CheckpointInvalid unless `key` signed it.

    Further signatures, as of a witness, are left to those who know their keys.
    """
    text, found, signatures = note.partition("\n\n")
    if not found or len(note) > MAX_NOTE_BYTES:
        raise CheckpointInvalid("this is no checkpoint")
    text += "\n"
    checkpoint = _parsed(text)
    if not any(_is_signed(line, text, checkpoint.origin, key) for line in signatures.split("\n")):
        raise CheckpointInvalid("the checkpoint is not signed by this key")
    return checkpoint


def _parsed(text: str) -> Checkpoint:
    try:
        origin, size, root, *more = text.removesuffix("\n").split("\n")
        checkpoint = Checkpoint(
            origin,
            int(size),
            base64.b64decode(root, validate=True),
            next((line.removeprefix("time ") for line in more if line.startswith("time ")), ""),
        )
    except (ValueError, binascii.Error) as error:
        raise CheckpointInvalid("this is no checkpoint") from error
    if not origin or str(checkpoint.size) != size or checkpoint.size < 0:
        raise CheckpointInvalid("this is no checkpoint")
    if len(checkpoint.root) != HASH_BYTES:
        raise CheckpointInvalid("this is no checkpoint")
    return checkpoint


def _is_signed(line: str, text: str, origin: str, key: Ed25519PublicKey) -> bool:
    mark, _, rest = line.partition(" ")
    name, _, encoded = rest.rpartition(" ")
    if mark != "—" or name != origin:
        return False
    try:
        signature = base64.b64decode(encoded, validate=True)
        if signature[:KEY_ID_BYTES] != _key_id(origin, key):
            return False
        key.verify(signature[KEY_ID_BYTES:], text.encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def public_key_line(key: Ed25519PublicKey) -> str:
    """The public key in the signed notes' own form, for tools that read it."""
    name = origin_of(key)
    encoded = base64.b64encode(ED25519 + _raw(key)).decode()
    return f"{name}+{_key_id(name, key).hex()}+{encoded}"


def read_public_key(text: str) -> Ed25519PublicKey:
    """A public key as PEM or as a signed note's line. Raises CheckpointInvalid."""
    try:
        if "-----BEGIN" in text:
            key = load_pem_public_key(text.encode())
        else:
            raw = base64.b64decode(text.strip().split("+", 2)[2], validate=True)
            if raw[:1] != ED25519:
                raise CheckpointInvalid("the public key is not of Ed25519")
            key = Ed25519PublicKey.from_public_bytes(raw[1:])
    except (ValueError, IndexError) as error:
        raise CheckpointInvalid("the public key cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CheckpointInvalid("the public key is not of Ed25519")
    return key


def _key_id(name: str, key: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + _raw(key)).digest()[:KEY_ID_BYTES]


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
