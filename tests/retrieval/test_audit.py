import threading

import psycopg
import pytest
from django.db import connection, transaction

from retrieval import access, audit
from retrieval.errors import AuditUnavailable
from retrieval.models import AuditEvent, Kind, Purpose, User
from tests import database
from tests.factories import make_user, operator

pytestmark = pytest.mark.usefixtures("db")

Superuser = psycopg.Connection[tuple[object, ...]]


def verify() -> audit.Verification:
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        return audit.verify()


@pytest.fixture
def nine_entries(db: None) -> None:
    for n in range(9):
        audit.record(Kind.SEARCH_SERVED, actor=operator(), purpose="TREAT", query=str(n))


def test_an_untouched_log_holds(nine_entries: None) -> None:
    found = verify()

    assert found.holds
    assert found.entries == 9


TAMPERING = {
    "edited": ("UPDATE retrieval_auditevent SET details = '{}' WHERE number = 5", 5),
    "edited with its own hash mended": (
        "UPDATE retrieval_auditevent SET details = '{}', entry_hash = sha256('x') WHERE number = 5",
        5,
    ),
    "other time": (
        "UPDATE retrieval_auditevent SET occurred_at = occurred_at + interval '1 microsecond'"
        " WHERE number = 5",
        5,
    ),
    "other actor": ("UPDATE retrieval_auditevent SET actor_id = 424242 WHERE number = 5", 5),
    "deleted": ("DELETE FROM retrieval_auditevent WHERE number = 5", 5),
    "first deleted": ("DELETE FROM retrieval_auditevent WHERE number = 1", 1),
    "tail cut off": ("DELETE FROM retrieval_auditevent WHERE number > 6", 7),
    "inserted": (
        "INSERT INTO retrieval_auditevent"
        " (number, occurred_at, kind, actor_id, purpose, details, previous_hash, entry_hash)"
        " SELECT 10, occurred_at, kind, actor_id, purpose, details, previous_hash, entry_hash"
        " FROM retrieval_auditevent WHERE number = 9",
        10,
    ),
    "two swapped": (
        "UPDATE retrieval_auditevent a SET details = b.details FROM retrieval_auditevent b"
        " WHERE (a.number, b.number) IN ((4, 6), (6, 4))",
        4,
    ),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_as_a_superuser_is_found_at_its_first_entry(
    how: str, nine_entries: None, superuser: Superuser
) -> None:
    statement, first_wrong = TAMPERING[how]
    superuser.execute("SET session_replication_role = replica")
    superuser.execute(statement)

    found = verify()

    assert not found.holds
    assert found.first_wrong == first_wrong


@pytest.mark.parametrize("role", ["web", "worker", "owner"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE retrieval_auditevent SET kind = 'x'",
        "DELETE FROM retrieval_auditevent",
        "TRUNCATE retrieval_auditevent",
    ],
)
def test_no_role_of_the_appliance_can_rewrite_the_log(
    role: str, statement: str, nine_entries: None, var: object
) -> None:
    with database.connect(var, role) as connected, pytest.raises(psycopg.Error):  # type: ignore[arg-type]
        connected.execute(statement)

    assert verify().entries == 9


def test_a_superuser_needs_more_than_a_statement(nine_entries: None, superuser: Superuser) -> None:
    with pytest.raises(psycopg.Error, match="append-only"):
        superuser.execute("DELETE FROM retrieval_auditevent")


def test_concurrent_writers_do_not_fork_the_chain() -> None:
    actor = operator()

    def write() -> None:
        for _ in range(20):
            audit.record(Kind.SEARCH_SERVED, actor=actor)
        connection.close()

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    found = verify()
    assert found.holds
    assert found.entries == 80


def test_an_entry_is_not_written_inside_a_transaction_that_could_forget_it() -> None:
    with transaction.atomic(), pytest.raises(RuntimeError):
        audit.record(Kind.SEARCH_SERVED, actor=operator())

    connection.set_autocommit(False)
    try:
        with pytest.raises(RuntimeError):
            audit.record(Kind.SEARCH_SERVED, actor=User(pk=1))
    finally:
        connection.set_autocommit(True)


def test_an_entry_whose_commit_fails_is_no_entry(superuser: Superuser) -> None:
    """Its number was told before: only what is committed counts."""
    superuser.execute(
        "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE 'at the commit'; END $$"
    )
    superuser.execute(
        "CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON retrieval_auditevent"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fails()"
    )
    try:
        with pytest.raises(AuditUnavailable):
            audit.record(Kind.SEARCH_SERVED, actor=operator())
    finally:
        superuser.execute("DROP FUNCTION fails CASCADE")

    assert verify().entries == 0


def test_a_change_and_its_entry_are_forgotten_together() -> None:
    with transaction.atomic():
        audit.record_in_transaction(Kind.GRANT_CHANGED, actor=operator())
        transaction.set_rollback(True)

    assert verify().entries == 0


def test_a_log_that_cannot_be_written_is_an_error_within_seconds(superuser: Superuser) -> None:
    superuser.execute("BEGIN")
    superuser.execute("SELECT 1 FROM retrieval_audithead FOR UPDATE")

    with pytest.raises(AuditUnavailable):
        audit.record(Kind.SEARCH_SERVED, actor=operator())
    superuser.execute("ROLLBACK")


def test_the_log_is_for_those_who_may_read_it() -> None:
    audit.record(Kind.SEARCH_SERVED, actor=operator())

    with access.acting_as(make_user(), Purpose.ADMINISTRATION):
        assert AuditEvent.objects.count() == 0
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        assert AuditEvent.objects.count() == 1


def test_equal_words_meet_on_the_log_and_are_not_told() -> None:
    once, again = audit.fingerprint("fracture"), audit.fingerprint("fracture")

    assert once == again != audit.fingerprint("tumour")
    assert "fracture" not in once
