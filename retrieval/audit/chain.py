"""Whether the log is as it was written: by its own chain, and by what was signed outside."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from django.conf import settings
from django.db import connection

from retrieval.audit.checkpoint import Checkpoint
from retrieval.audit.entries import Entry, stored
from retrieval.audit.merkle import Tree
from retrieval.audit.outside import Outside
from retrieval.models import AuditEvent, Kind

GENESIS = hashlib.sha256(b"cloister audit log").digest()


@dataclass(frozen=True)
class Verification:
    """`first_wrong` is the number of the first entry that is not as it was written, or None.

    `last_possible` is another number where only a head speaks against the entries: the first wrong
    one is among `first_wrong` to `last_possible`. `checkpoints_gone`: some were taken, or should
    have been, and none is there to hold against the log. `checkpoint` is the size of the largest
    outside checkpoint that was held against the log (0: none). Not `complete`: the entries are
    of the log, and others may have been left out.
    """

    entries: int
    head: bytes
    first_wrong: int | None
    problem: str
    checkpoint: int = 0
    root: bytes = b""
    last_possible: int | None = None
    complete: bool = True
    checkpoints_gone: bool = False

    @property
    def holds(self) -> bool:
        return self.first_wrong is None and not self.checkpoints_gone


def verify(outside: Outside | None = None) -> Verification:
    """Recompute chain and tree from the first entry, inside `acting_as` who may read the log.

    By itself the chain finds an edited, deleted, inserted or moved entry, and a tail cut off
    without its head. Against `outside` it finds them where chain and head were recomputed, too.
    One that is empty speaks against the log where checkpoints were taken before, or where
    CLOISTER_CHECKPOINTS names their folder.
    """
    # The head is read first: entries that are appended meanwhile come after it.
    with connection.cursor() as cursor:
        cursor.execute("SELECT number, entry_hash FROM retrieval_audithead")
        number, entry_hash = cursor.fetchone() or (0, GENESIS)
    found = verify_entries(stored(), outside or Outside(), head=(number, bytes(entry_hash)))
    if outside is None or outside.checkpoints or found.first_wrong is not None:
        return found
    # An emptied folder must not turn a rewritten log into one that holds.
    taken = AuditEvent.objects.filter(kind=Kind.AUDIT_CHECKPOINT).exists()
    if not (taken or settings.CLOISTER_CHECKPOINTS_EXPECTED):
        return found
    return replace(found, checkpoints_gone=True, problem="no checkpoint is where they are kept")


def verify_entries(
    entries: Iterable[Entry], outside: Outside, *, head: tuple[int, bytes] | None = None
) -> Verification:
    """The same for entries from anywhere; `head`: number and hash of the last, where known."""
    kept, pending = outside.tree, list(outside.checkpoints)
    tree, previous, agreed = Tree(), GENESIS, 0

    def wrong(number: int, problem: str, last_possible: int | None = None) -> Verification:
        return Verification(
            tree.size, previous, number, problem, outside.size, tree.root(), last_possible
        )

    while pending and pending[0].size == 0:
        pending.pop(0)
    for entry in entries:
        number = tree.size + 1
        leaf = entry.leaf()
        if number <= kept.size and leaf != kept.leaf(tree.size):
            return wrong(number, _against_kept(entry, number))
        if problem := _problem(entry, number, previous):
            return wrong(number, problem)
        tree.append(leaf)
        previous = entry.entry_hash
        while pending and pending[0].size == number:
            if tree.root() != pending[0].root:
                return _between(agreed, pending[0], tree, previous, outside.size)
            agreed = pending.pop(0).size
        if head is not None and number == head[0] and previous != head[1]:
            return wrong(number, "the log's head does not match it")
    known = max(outside.size, 0 if head is None else head[0])
    if tree.size < known:
        return wrong(tree.size + 1, "the log was cut off here")
    return Verification(tree.size, previous, None, "", outside.size, tree.root())


def _between(
    agreed: int, checkpoint: Checkpoint, tree: Tree, previous: bytes, held: int
) -> Verification:
    """A head that does not match, and no hashes of single entries to say more."""
    return Verification(
        tree.size,
        previous,
        agreed + 1,
        f"it, or one up to {checkpoint.size}, is not what the checkpoint was signed over",
        held,
        tree.root(),
        checkpoint.size,
    )


def _against_kept(entry: Entry, number: int) -> str:
    if entry.number != number:
        return "this entry is missing"
    return "it is not the entry that the checkpoint was signed over"


def _problem(entry: Entry, expected_number: int, previous: bytes) -> str:
    if entry.number != expected_number:
        return "this entry is missing"
    if entry.previous_hash != previous:
        return "it does not follow its predecessor"
    if entry.entry_hash != entry.chained():
        return "it is not as it was written"
    return ""
