"""Proofs for one entry against the newest checkpoint, from what is kept outside the database.

The hashes of all entries lie beside the checkpoints, so nobody has to read the others' entries.
"""

import threading
from dataclasses import dataclass

from django.conf import settings

from retrieval import keys
from retrieval.audit import outside
from retrieval.audit.entries import Entry
from retrieval.audit.outside import Outside
from retrieval.errors import CheckpointInvalid, LogAltered

_kept = Outside()
_alone = threading.Lock()


@dataclass(frozen=True)
class Proof:
    """That an entry is in the log whose head `checkpoint` (a signed note) is. RFC 6962, 2.1.1."""

    index: int
    size: int
    path: list[str]
    checkpoint: str


def of_entry(entry: Entry) -> Proof | None:
    """None for an entry younger than the newest checkpoint: a retry helps, after the next.

    Raises LogAltered where the entry is not what was signed over, CheckpointInvalid.
    """
    global _kept  # noqa: PLW0603  the hashes of a year are not read again for each proof
    with _alone:
        try:
            newest = outside.follow(_kept, settings.CLOISTER_CHECKPOINTS, keys.public_key())
        except CheckpointInvalid:
            _kept = Outside()
            raise
        size = _kept.size
        if entry.number > size or not newest:
            return None
        if _kept.tree.leaf(entry.number - 1) != entry.leaf():
            raise LogAltered(f"entry {entry.number} is not as it was written")
        path = [node.hex() for node in _kept.tree.inclusion_proof(entry.number - 1, size)]
    return Proof(entry.number - 1, size, path, newest)
