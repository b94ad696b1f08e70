"""What is kept of the log outside the database's reach: a folder of checkpoints, only added to.

Beside each `<size>.checkpoint` lies `<size>.leaves`: the hashes of the entries since the one
before, 32 bytes each. A head alone says that something is wrong; with them, which entry.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.conf import settings

from retrieval import keys
from retrieval.audit import checkpoint as notes
from retrieval.audit.checkpoint import Checkpoint
from retrieval.audit.entries import Entry, stored
from retrieval.audit.merkle import HASH_BYTES, Tree
from retrieval.errors import CheckpointInvalid, LogAltered

SIZE_DIGITS: Final = 12
PUBLIC_KEY_FILE: Final = "public-key.pem"


@dataclass
class Outside:
    """Checkpoints by size, and the tree of the entries' hashes as far as it was kept."""

    checkpoints: list[Checkpoint] = field(default_factory=list)
    tree: Tree = field(default_factory=Tree)

    @property
    def size(self) -> int:
        return self.checkpoints[-1].size if self.checkpoints else 0


def configured() -> Outside:
    """What the appliance keeps in CLOISTER_CHECKPOINTS; nothing before the first checkpoint."""
    folder: Path = settings.CLOISTER_CHECKPOINTS
    return _of_folder(folder, None, keys.public_key())


def load(path: Path, key: Ed25519PublicKey) -> Outside:
    """What `path`, a folder or one checkpoint's file, holds. Every signature is checked.

    Raises CheckpointInvalid where something is not as the appliance wrote it, or nothing is there.
    """
    if path.is_dir():
        outside = _of_folder(path, None, key)
        if not outside.checkpoints:
            raise CheckpointInvalid("that folder holds no checkpoint")
        return outside
    checkpoint = notes.read(_text(path), key)
    if path.with_suffix(".leaves").exists() and path.stem == _name(checkpoint.size):
        return _of_folder(path.parent, checkpoint.size, key)
    return Outside([checkpoint])


def _of_folder(folder: Path, until: int | None, key: Ed25519PublicKey) -> Outside:
    outside = Outside()
    _add(outside, folder, until, key)
    return outside


def follow(outside: Outside, folder: Path, key: Ed25519PublicKey) -> str:
    """Read on from the newest checkpoint of `outside`; returns the note of what is newest now.

    Empty before the first one. Raises CheckpointInvalid, and `outside` is of no use then.
    """
    _add(outside, folder, None, key)
    return _text(folder / f"{_name(outside.size)}.checkpoint") if outside.checkpoints else ""


def _add(outside: Outside, folder: Path, until: int | None, key: Ed25519PublicKey) -> None:
    known = _name(outside.size) if outside.checkpoints else ""
    for path in sorted(folder.glob("*.checkpoint")):
        if path.stem <= known:
            continue
        checkpoint = notes.read(_text(path), key)
        if path.stem != _name(checkpoint.size):
            raise CheckpointInvalid("a checkpoint's file does not have its name")
        if until is not None and checkpoint.size > until:
            break
        kept = _bytes(path.with_suffix(".leaves"))
        for start in range(0, len(kept), HASH_BYTES):
            outside.tree.append(kept[start : start + HASH_BYTES])
        if outside.tree.size != checkpoint.size or outside.tree.root() != checkpoint.root:
            raise CheckpointInvalid(
                f"the entries' hashes kept beside checkpoint {checkpoint.size} are not its own"
            )
        outside.checkpoints.append(checkpoint)


def extend(outside: Outside) -> str | None:
    """Take the next checkpoint: a signed note, or None where the log has not grown.

    Inside `acting_as` somebody who may read the log. What it signs begins with what was signed
    before: raises LogAltered where the database no longer holds that, and signs nothing.
    """
    new = _follow(outside)
    if not new and outside.checkpoints:
        return None
    for entry in new:
        outside.tree.append(entry.leaf())
    key = keys.signing_key()
    checkpoint = notes.taken_now(outside.tree.size, outside.tree.root(), key.public_key())
    outside.checkpoints.append(checkpoint)
    return notes.sign(checkpoint, key)


def _follow(outside: Outside) -> list[Entry]:
    """The entries since the last checkpoint, each one following its predecessor."""
    entries = stored(after=max(outside.size - 1, 0))
    previous = None
    if outside.size:
        previous = next(entries, None)
        if previous is None or previous.number != outside.size:
            raise LogAltered(f"entry {outside.size} is gone; see `audit verify`")
        if previous.leaf() != outside.tree.leaf(outside.size - 1):
            raise LogAltered(f"entry {outside.size} is another one; see `audit verify`")
    new = []
    for number, entry in enumerate(entries, start=outside.size + 1):
        follows = previous is None or entry.previous_hash == previous.entry_hash
        if entry.number != number or not follows or entry.entry_hash != entry.chained():
            raise LogAltered(f"entry {number} is not as it was written; see `audit verify`")
        new.append(entry)
        previous = entry
    return new


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One at a time: two checkpoints that follow the same one would hold entries twice."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(folder: Path, note: str, outside: Outside) -> Path:
    """Write the newest checkpoint of `outside` into the folder, `alone`; what lies there stays."""
    before = outside.checkpoints[-2].size if len(outside.checkpoints) > 1 else 0
    path = folder / f"{_name(outside.size)}.checkpoint"
    if path.exists():
        raise CheckpointInvalid("there is a checkpoint of that size already")
    if not (folder / PUBLIC_KEY_FILE).exists():
        _write(folder / PUBLIC_KEY_FILE, keys.public_key_pem().encode())
    # The hashes first: a checkpoint is never without them, hashes without one are not looked at.
    _write(path.with_suffix(".leaves"), outside.tree.leaves(before, outside.size))
    _write(path, note.encode())
    return path


def _name(size: int) -> str:
    return f"{size:0{SIZE_DIGITS}d}"


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, and on the disk before this returns."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with draft.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(0o440)
    draft.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointInvalid("a file beside the checkpoint cannot be read") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointInvalid("the checkpoint cannot be read") from error
