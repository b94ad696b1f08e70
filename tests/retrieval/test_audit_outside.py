"""A superuser of the database against the checkpoints he cannot reach."""

from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrieval import access, audit, keys
from retrieval.audit import checkpoint as notes
from retrieval.audit import outside
from retrieval.audit.merkle import verify_consistency
from retrieval.audit.outside import Outside
from retrieval.errors import CheckpointInvalid, LogAltered
from retrieval.models import Kind, Purpose
from tests.factories import operator

pytestmark = pytest.mark.usefixtures("db")

Superuser = psycopg.Connection[tuple[object, ...]]

# What the superuser does after each attack: every hash anew, by the log's own rule, and the head.
RECOMPUTE = """
DO $$
DECLARE
    entry record;
    previous bytea := sha256('cloister audit log');
    own bytea;
    n bigint := 0;
BEGIN
    FOR entry IN SELECT * FROM retrieval_auditevent ORDER BY number LOOP
        n := n + 1;
        own := sha256(previous || convert_to(concat_ws(E'\\n', n,
            to_char(entry.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            entry.kind, coalesce(entry.actor_id::text, ''), entry.purpose, entry.details), 'UTF8'));
        UPDATE retrieval_auditevent SET number = n, previous_hash = previous, entry_hash = own
            WHERE number = entry.number;
        previous := own;
    END LOOP;
    UPDATE retrieval_audithead SET number = n, entry_hash = previous;
END $$
"""

EDIT = "UPDATE retrieval_auditevent SET details = '{}' WHERE number = 5"
DELETE = "DELETE FROM retrieval_auditevent WHERE number = 5"
INSERT = """
    UPDATE retrieval_auditevent SET number = -number WHERE number >= 5;
    UPDATE retrieval_auditevent SET number = 1 - number WHERE number < 0;
    INSERT INTO retrieval_auditevent (number, occurred_at, kind, actor_id, purpose, details,
        previous_hash, entry_hash) SELECT 5, occurred_at, kind, actor_id, purpose, details,
        previous_hash, entry_hash FROM retrieval_auditevent WHERE number = 4
"""
REORDER = """
    UPDATE retrieval_auditevent a SET details = b.details, occurred_at = b.occurred_at
        FROM retrieval_auditevent b WHERE (a.number, b.number) IN ((5, 7), (7, 5))
"""
CUT = "DELETE FROM retrieval_auditevent WHERE number >= 5"

ATTACKS = {"edit": EDIT, "delete": DELETE, "insert": INSERT, "re-order": REORDER, "cut": CUT}


def write(count: int) -> None:
    for n in range(count):
        audit.record(Kind.SEARCH_SERVED, actor=operator(), purpose="TREAT", query=str(n))


def take(folder: Path) -> str | None:
    kept = outside.load(folder, keys.public_key()) if folder.exists() else Outside()
    with outside.alone(folder), access.acting_as(operator(), Purpose.ADMINISTRATION):
        note = outside.extend(kept)
        if note is not None:
            outside.keep(folder, note, kept)
    return note


def verify(folder: Path) -> audit.Verification:
    kept = outside.load(folder, keys.public_key())
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        return audit.verify(kept)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine entries, a checkpoint over four of them and one over all."""
    folder = tmp_path / "kept"
    write(4)
    take(folder)
    write(5)
    take(folder)
    return folder


def test_an_untouched_log_holds_against_its_checkpoints_and_beyond(folder: Path) -> None:
    write(2)

    found = verify(folder)

    assert found.holds
    assert (found.entries, found.checkpoint) == (11, 9)


@pytest.mark.parametrize("hashes", ["as they were", "recomputed"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_found_at_its_first_entry(
    attack: str, hashes: str, folder: Path, superuser: Superuser
) -> None:
    superuser.execute("SET session_replication_role = replica")
    superuser.execute(ATTACKS[attack])
    if hashes == "recomputed":
        superuser.execute(RECOMPUTE)

    assert verify(folder).first_wrong == 5


@pytest.mark.parametrize("later", [0, 2, 8])
def test_an_old_dump_is_found_at_the_first_entry_it_lacks(
    later: int, folder: Path, superuser: Superuser
) -> None:
    superuser.execute("SET session_replication_role = replica")
    superuser.execute("DELETE FROM retrieval_auditevent WHERE number > 6")
    superuser.execute(
        "UPDATE retrieval_audithead SET (number, entry_hash) ="
        " (SELECT number, entry_hash FROM retrieval_auditevent WHERE number = 6)"
    )
    write(later)

    assert verify(folder).first_wrong == 7


def test_a_log_replaced_as_a_whole_is_found_at_its_first_entry(
    folder: Path, superuser: Superuser
) -> None:
    superuser.execute("SET session_replication_role = replica")
    superuser.execute("UPDATE retrieval_auditevent SET occurred_at = occurred_at - interval '1 s'")
    superuser.execute(RECOMPUTE)

    assert verify(folder).first_wrong == 1


def test_a_head_alone_says_between_which_entries(folder: Path, superuser: Superuser) -> None:
    for path in folder.glob("*.leaves"):
        path.unlink()
    superuser.execute("SET session_replication_role = replica")
    superuser.execute(EDIT)
    superuser.execute(RECOMPUTE)
    checkpoints = [
        outside.load(path, keys.public_key()).checkpoints[0]
        for path in sorted(folder.glob("*.checkpoint"))
    ]

    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        found = audit.verify(Outside(checkpoints))

    assert (found.first_wrong, found.last_possible) == (5, 9)


@pytest.mark.parametrize("attack", [EDIT.replace("5", "9"), CUT, EDIT.replace("5", "11")])
def test_nothing_is_signed_that_contradicts_what_was_signed(
    attack: str, folder: Path, superuser: Superuser
) -> None:
    write(2)
    superuser.execute("SET session_replication_role = replica")
    superuser.execute(attack)

    with pytest.raises(LogAltered):
        take(folder)
    assert outside.load(folder, keys.public_key()).size == 9


def test_a_checkpoint_after_an_attack_does_not_cover_it_up(
    folder: Path, superuser: Superuser
) -> None:
    superuser.execute("SET session_replication_role = replica")
    superuser.execute(EDIT)
    write(1)
    take(folder)

    assert verify(folder).first_wrong == 5


def test_a_log_that_has_not_grown_needs_no_checkpoint(folder: Path) -> None:
    before = sorted(folder.iterdir())

    assert take(folder) is None
    assert sorted(folder.iterdir()) == before


def test_checkpoints_are_consistent_with_one_another(folder: Path) -> None:
    kept = outside.load(folder, keys.public_key())
    first, second = kept.checkpoints

    proof = kept.tree.consistency_proof(first.size, second.size)

    assert verify_consistency(first.size, second.size, first.root, second.root, proof)


def test_one_checkpoint_is_held_against_the_log_by_its_file(folder: Path) -> None:
    kept = outside.load(folder / "000000000004.checkpoint", keys.public_key())

    assert (kept.size, kept.tree.size) == (4, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.replace("\n9\n", "\n8\n"),
        lambda note: note.replace("time 2", "time 1"),
        lambda note: note.replace("cloister/", "cloister/x", 1),
        lambda note: note.split("\n\n")[0] + "\n\n",
        lambda note: note.replace("—", "-"),
        lambda note: note[:-20],
        lambda note: "",
    ],
)
def test_a_changed_checkpoint_is_refused(change: object, folder: Path) -> None:
    path = folder / "000000000009.checkpoint"
    changed = change(path.read_text(encoding="utf-8"))  # type: ignore[operator]

    with pytest.raises(CheckpointInvalid):
        notes.read(changed, keys.public_key())


def test_a_checkpoint_of_another_key_is_refused(folder: Path) -> None:
    other = Ed25519PrivateKey.generate()
    kept = outside.load(folder, keys.public_key())

    with pytest.raises(CheckpointInvalid):
        notes.read(notes.sign(kept.checkpoints[-1], other), keys.public_key())
    with pytest.raises(CheckpointInvalid):
        outside.load(folder, other.public_key())


def test_hashes_that_are_not_the_checkpoints_are_refused(folder: Path) -> None:
    path = folder / "000000000004.leaves"
    path.chmod(0o600)
    path.write_bytes(bytes(len(path.read_bytes())))

    with pytest.raises(CheckpointInvalid):
        outside.load(folder, keys.public_key())


@pytest.mark.parametrize(
    "form", [keys.public_key_pem, lambda: notes.public_key_line(keys.public_key())]
)
def test_the_public_key_is_read_in_both_forms(form: object) -> None:
    assert notes.read_public_key(form()) == keys.public_key()  # type: ignore[operator]


@pytest.mark.parametrize("text", ["", "a+b+c", "-----BEGIN PUBLIC KEY-----\nx\n"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        notes.read_public_key(text)


def test_the_form_is_that_of_the_published_specification() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    note = notes.sign(notes.Checkpoint("example.com/log", 3, bytes(32), "now"), key)
    text, _, signature = note.partition("\n\n")

    assert text.split("\n")[:3] == ["example.com/log", "3", "A" * 43 + "="]
    assert signature.startswith("— example.com/log ")
    assert notes.read(note + "— witness.example AAAA\n", key.public_key()).size == 3
