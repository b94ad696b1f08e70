"""Envelope encryption: one key file wraps a data key per image; everything else is derived.

AES-256-GCM (NIST SP 800-38D) throughout; derived keys by HKDF-SHA256 (RFC 5869). Losing the key
file loses every stored picture and name, so `create_key_file` never replaces one.
"""

import base64
import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings

from retrieval.errors import StorageCorrupt

KEY_BYTES = 32
NONCE_BYTES = 12


def create_key_file(path: Path) -> bool:
    """Make the key-encryption key, readable by its owner only. False: there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(f".{secrets.token_hex(8)}")
    draft.touch(mode=0o600, exist_ok=False)
    try:
        with draft.open("wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power cut: nothing is sealed with a key before."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@lru_cache(maxsize=1)
def _read_key_file(path: Path) -> bytes:
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except (OSError, ValueError) as error:
        raise StorageCorrupt("the key file cannot be read") from error
    if len(key) != KEY_BYTES:
        raise StorageCorrupt("the key file does not hold a 256-bit key")
    return key


def _derived(use: str, key_file: Path | None = None) -> bytes:
    """The key for one use, so that no two uses ever share one."""
    kdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"cloister " + use.encode())
    return kdf.derive(_read_key_file(key_file or Path(settings.CLOISTER_KEY_FILE)))


def new_data_key(image_id: UUID) -> tuple[bytes, bytes]:
    """A fresh data key and its wrapping, which opens for this image only."""
    key = secrets.token_bytes(KEY_BYTES)
    return key, seal(key, key=_derived("data keys"), context=image_id.bytes)


def unwrap_data_key(wrapped: bytes, image_id: UUID) -> bytes:
    return unseal(wrapped, key=_derived("data keys"), context=image_id.bytes)


def seal(data: bytes, *, key: bytes, context: bytes) -> bytes:
    """Encrypt `data` under `key`; it opens again only with the same `context`."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, context)


def unseal(sealed: bytes, *, key: bytes, context: bytes) -> bytes:
    """The inverse of `seal`. Raises StorageCorrupt for another key, context or content."""
    sealed = bytes(sealed)  # psycopg hands out memoryviews
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except (InvalidTag, ValueError) as error:
        raise StorageCorrupt("a sealed value does not open") from error


def seal_message(data: bytes, *, context: bytes) -> bytes:
    """Seal what passes through the broker: it may hold query words or a query image."""
    return seal(data, key=_derived("broker messages"), context=context)


def unseal_message(sealed: bytes, *, context: bytes) -> bytes:
    return unseal(sealed, key=_derived("broker messages"), context=context)


def seal_checkpoint(data: bytes, *, context: bytes) -> bytes:
    """Seal a training run's state: its weights are private until the last step's noise is in."""
    return seal(data, key=_derived("training checkpoints"), context=context)


def unseal_checkpoint(sealed: bytes, *, context: bytes) -> bytes:
    return unseal(sealed, key=_derived("training checkpoints"), context=context)


def seal_reason(reason: str, *, context: bytes) -> bytes:
    """Seal why somebody broke the glass: the words may name a patient."""
    return seal(reason.encode(), key=_derived("break-glass reasons"), context=context)


def unseal_reason(sealed: bytes, *, context: bytes) -> str:
    return unseal(sealed, key=_derived("break-glass reasons"), context=context).decode()


def new_query_key(kept_id: UUID) -> tuple[bytes, bytes]:
    """A fresh key for one kept query and its wrapping: gone with the row, so is the query."""
    key = secrets.token_bytes(KEY_BYTES)
    return key, seal(key, key=_derived("kept queries"), context=kept_id.bytes)


def unwrap_query_key(wrapped: bytes, kept_id: UUID) -> bytes:
    return unseal(wrapped, key=_derived("kept queries"), context=kept_id.bytes)


def seal_authenticator(data: bytes, *, context: bytes) -> bytes:
    """Seal an authenticator app's key: whoever reads the database computes no code."""
    return seal(data, key=_derived("authenticators"), context=context)


def unseal_authenticator(sealed: bytes, *, context: bytes) -> bytes:
    return unseal(sealed, key=_derived("authenticators"), context=context)


def seal_upload(data: bytes, *, context: bytes) -> bytes:
    """Seal a part of a file that is still coming in: nobody has looked at its pixels yet."""
    return seal(data, key=_derived("uploads"), context=context)


def unseal_upload(sealed: bytes, *, context: bytes) -> bytes:
    return unseal(sealed, key=_derived("uploads"), context=context)


def content_hash(collection_id: int) -> "hmac.HMAC":
    """A running HMAC-SHA256 for a file's bytes, to be fed with `update`.

    Keyed, and per collection: the database does not tell whether it holds a file somebody has,
    nor whether two collections hold the same one.
    """
    return hmac.new(_derived(f"content of collection {collection_id}"), digestmod=hashlib.sha256)


def keyed_hash(text: str, *, use: str) -> str:
    """Hex HMAC-SHA256 of `text` for the log: equal texts meet, guesses need the key file."""
    return hmac.new(_derived(use), text.encode(), hashlib.sha256).hexdigest()


def dicom_key(key_file: Path | None = None) -> bytes:
    """The key that maps the identifiers of DICOM objects, the same for the whole appliance.

    Studies of one patient that arrive through two collections still fit together outside.
    key_file: another one than the appliance's.
    """
    return _derived("dicom identifiers", key_file)


def signing_key() -> Ed25519PrivateKey:
    """The appliance's signature (RFC 8032): the same for as long as the key file is the same."""
    return Ed25519PrivateKey.from_private_bytes(_derived("signatures"))


def public_key() -> Ed25519PublicKey:
    """What checks the appliance's signatures; it tells nothing of the key file."""
    return signing_key().public_key()


def public_key_pem() -> str:
    """The public key as an auditor takes it away: SubjectPublicKeyInfo, PEM (RFC 7468)."""
    pem = public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()
