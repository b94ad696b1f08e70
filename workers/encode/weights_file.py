"""Weights are read once, checked against a digest, and only then parsed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from retrieval.errors import ModelRefused


def read_verified(path: Path, sha256: str) -> bytes:
    """Return the file's bytes if they have this sha256 (hex).

    The bytes that were checked are the bytes that are parsed: a file swapped between the check
    and a second read would not be noticed. Raises ModelRefused if it is missing or differs.
    """
    content = read(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelRefused(f"{path.name} is not the file whose digest was recorded")
    return content


def read(path: Path) -> bytes:
    """Return the file's bytes. Raises ModelRefused if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ModelRefused(f"{path.name} is missing or cannot be read") from exc


def combined_digest(digests: Iterable[str]) -> str:
    """Return one sha256 (hex) over several, in the order given."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
