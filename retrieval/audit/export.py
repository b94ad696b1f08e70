"""The log, or a part of it, as a file that is checked elsewhere with nothing but the public key.

JSON, one document a line. The first is the header with a checkpoint, signed for this export; the
others are entries. In a part of the log each entry brings its inclusion proof: the part is shown
to be of the log, though not to be all that was asked for.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from retrieval import keys
from retrieval.audit import checkpoint as notes
from retrieval.audit.chain import GENESIS, Verification, verify_entries
from retrieval.audit.checkpoint import Checkpoint
from retrieval.audit.entries import Entry, stored
from retrieval.audit.merkle import Tree, verify_inclusion
from retrieval.audit.outside import Outside
from retrieval.errors import CheckpointInvalid, LogAltered

FORMAT: Final = "cloister audit log 1"

Wanted = Callable[[Entry], bool]


def everything(_entry: Entry) -> bool:
    return True


def export(until: int, outside: Outside, wanted: Wanted = everything) -> Iterator[dict[str, Any]]:
    """The documents of an export of the first `until` entries, inside `acting_as` who may read.

    Raises LogAltered, before the first document, where the log is not as it was written: nothing
    is signed that contradicts `outside`.
    """
    tree = Tree()
    within = [c for c in outside.checkpoints if c.size <= until]
    found = verify_entries(_fed(stored(until=until), tree), Outside(within, outside.tree))
    if not found.holds or found.entries != until:
        raise LogAltered(f"entry {found.first_wrong or found.entries + 1} is wrong; see `verify`")
    key = keys.signing_key()
    note = notes.sign(notes.taken_now(until, tree.root(), key.public_key()), key)
    is_complete = wanted is everything
    yield {"export": FORMAT, "complete": is_complete, "checkpoint": note}
    for entry in stored(until=until):
        if wanted(entry):
            document = entry.as_document()
            if not is_complete:
                proof = tree.inclusion_proof(entry.number - 1)
                document["proof"] = [node.hex() for node in proof]
            yield document


def _fed(entries: Iterable[Entry], tree: Tree) -> Iterator[Entry]:
    for entry in entries:
        tree.append(entry.leaf())
        yield entry


def verify_export(lines: Iterable[str], key: Ed25519PublicKey, outside: Outside) -> Verification:
    """Check an export offline. Raises CheckpointInvalid where `key` did not sign it."""
    documents = _documents(lines)
    header = next(documents, None)
    if not isinstance(header, dict) or header.get("export") != FORMAT:
        raise CheckpointInvalid("this is no export of the log")
    own = notes.read(str(header.get("checkpoint")), key)
    if outside.size > own.size and outside.tree.size < own.size:
        raise CheckpointInvalid("the checkpoint is younger than the export")
    if header.get("complete") is True:
        earlier = [c for c in outside.checkpoints if c.size <= own.size]
        entries = (Entry.from_document(document) for document in documents)
        return verify_entries(entries, Outside([*earlier, own], outside.tree))
    return _verify_part(documents, own, outside)


def _verify_part(documents: Iterator[Any], own: Checkpoint, outside: Outside) -> Verification:
    """Each entry by its proof, and by the hash that was kept of it outside."""
    if outside.tree.size < outside.size and outside.checkpoints[-1].root != own.root:
        raise CheckpointInvalid("a part is held against a folder of checkpoints, not against one")
    count, last, previous = 0, 0, GENESIS
    for document in documents:
        entry = Entry.from_document(document)
        leaf, number = entry.leaf(), entry.number
        problem = ""
        if number <= last:
            problem = "it is out of its order"
        elif entry.entry_hash != entry.chained():
            problem = "it is not as it was written"
        elif not verify_inclusion(leaf, number - 1, own.size, _proof_of(document), own.root):
            problem = "the checkpoint was not signed over it"
        elif number <= outside.tree.size and leaf != outside.tree.leaf(number - 1):
            problem = "it is not the entry that the checkpoint was signed over"
        if problem:
            return Verification(
                count, previous, number, problem, own.size, own.root, complete=False
            )
        count, last, previous = count + 1, number, entry.entry_hash
    return Verification(count, previous, None, "", own.size, own.root, complete=False)


def _proof_of(document: Any) -> list[bytes]:
    try:
        return [bytes.fromhex(node) for node in document["proof"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointInvalid("an entry of the export has no proof") from error


def _documents(lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckpointInvalid("a line of the export cannot be read") from error


def images_of(entry: Entry) -> list[str]:
    """The ids of the images that an entry tells of."""
    told = entry.told()
    images = [told.get("image")]
    for several in (told.get("like"), told.get("images")):
        images += several if isinstance(several, list) else [several]
    return [str(image) for image in images if image]


def subjects_of(entry: Entry) -> list[int]:
    """The ids of the subjects whose images were shown, as recorded when they were."""
    told = entry.told()
    several = told.get("subjects")
    found = [told.get("subject"), *(several if isinstance(several, list) else [])]
    return [int(s) for s in found if isinstance(s, int | str) and str(s).isdecimal()]
