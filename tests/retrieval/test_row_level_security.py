"""The second lock, tried with raw SQL: the first one is left out on purpose."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import psycopg
import pytest
from django.db import InternalError, ProgrammingError, connection, transaction
from django.utils import timezone

from retrieval import access
from retrieval.errors import ServicesUnavailable
from retrieval.models import ImportBatch, Purpose, Role, User
from retrieval.models.grant import CAPABILITIES, Capability
from tests import database
from tests.factories import (
    grant,
    make_collection,
    make_encoder,
    make_image,
    make_user,
)

pytestmark = pytest.mark.usefixtures("db")

HOLD_PICTURES = ["retrieval_image", "retrieval_importbatch", "retrieval_embedding"]


def rows_of(table: str) -> list[int]:
    """The collections whose rows this connection sees, with no filter of ours."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT collection_id FROM {table} ORDER BY 1")
        return [collection_id for (collection_id,) in cursor.fetchall()]


@pytest.mark.parametrize("table", HOLD_PICTURES)
def test_without_context_there_are_no_rows(table: str) -> None:
    make_encoder()
    make_image(make_collection(), [1, 0, 0])

    assert rows_of(table) == []


@pytest.mark.parametrize("table", HOLD_PICTURES)
def test_raw_sql_shows_granted_collections_only(table: str) -> None:
    make_encoder()
    reader, mine, foreign = make_user(), make_collection(), make_collection()
    grant(reader, mine)
    make_image(mine, [1, 0, 0])
    make_image(foreign, [1, 0, 0])

    with access.acting_as(reader, Purpose.TREATMENT):
        assert rows_of(table) == [mine.pk]


Acting = Callable[[User, Purpose], AbstractContextManager[None]]
EITHER = pytest.mark.parametrize("acting", [access.acting_as, access.reading_as])


@EITHER
def test_context_ends_with_its_transaction(acting: Acting) -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    make_image(mine)

    with acting(reader, Purpose.TREATMENT):
        assert rows_of("retrieval_image") == [mine.pk]
        assert rows_of("retrieval_image") == [mine.pk]
    assert rows_of("retrieval_image") == []


@EITHER
def test_context_cannot_leak_into_an_outer_transaction(acting: Acting) -> None:
    reader = make_user()

    with pytest.raises(RuntimeError), transaction.atomic(), acting(reader, Purpose.TREATMENT):
        pass


@EITHER
def test_who_reads_as_one_acts_as_nobody_else_meanwhile(acting: Acting) -> None:
    one, other = make_user(), make_user()
    with (
        access.reading_as(one, Purpose.TREATMENT),
        pytest.raises(RuntimeError),
        acting(other, Purpose.TREATMENT),
    ):
        pass


def test_who_only_reads_changes_nothing() -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine, Role.CURATOR)

    with (
        pytest.raises(InternalError, match="read-only transaction"),
        access.reading_as(reader, Purpose.TREATMENT),
    ):
        ImportBatch.objects.create(collection=mine, started_by=reader)


@pytest.mark.parametrize(
    "change",
    [
        lambda user, given: setattr(given, "valid_until", timezone.now()),
        lambda user, given: setattr(given, "valid_from", timezone.now() + timedelta(days=1)),
        lambda user, given: setattr(given, "purposes", [Purpose.RESEARCH]),
        lambda user, given: setattr(user, "is_active", False),
    ],
    ids=["ended", "not begun", "other purpose", "inactive user"],
)
def test_a_grant_that_does_not_hold_now_shows_nothing_in_either_lock(change: object) -> None:
    reader, mine = make_user(), make_collection()
    given = grant(reader, mine)
    make_image(mine)
    change(reader, given)  # type: ignore[operator]
    given.save()
    reader.save()

    assert access.collections_where(reader, Purpose.TREATMENT, Capability.VIEW) == []
    with access.acting_as(reader, Purpose.TREATMENT):
        assert rows_of("retrieval_image") == []


def test_a_purpose_that_the_collection_no_longer_allows_opens_neither_lock() -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    make_image(mine)
    mine.purposes = [Purpose.RESEARCH]
    mine.save()

    assert access.collections_where(reader, Purpose.TREATMENT, Capability.VIEW) == []
    with access.acting_as(reader, Purpose.TREATMENT):
        assert rows_of("retrieval_image") == []


@pytest.mark.parametrize("role", list(Role))
def test_both_locks_agree_on_who_may_search(role: Role) -> None:
    make_encoder()
    reader, mine = make_user(), make_collection()
    grant(reader, mine, role)
    make_image(mine, [1, 0, 0])

    with access.acting_as(reader, Purpose.TREATMENT):
        sees_vectors = rows_of("retrieval_embedding") == [mine.pk]
    assert sees_vectors == (Capability.SEARCH in CAPABILITIES[role])


@pytest.mark.parametrize("role", list(Role))
def test_both_locks_agree_on_who_may_ingest(role: Role) -> None:
    reader, mine = make_user(), make_collection()
    grant(reader, mine, role)

    may = Capability.INGEST in CAPABILITIES[role]
    denied = pytest.raises(ProgrammingError, match="row-level security")
    with nullcontext() if may else denied, access.acting_as(reader, Purpose.TREATMENT):
        ImportBatch.objects.create(collection=mine, started_by=reader)


def test_a_partition_cannot_be_read_around_its_parent() -> None:
    make_encoder()
    reader, mine = make_user(), make_collection()
    grant(reader, mine)
    make_image(mine, [1, 0, 0])

    with (
        pytest.raises(ProgrammingError, match="permission denied"),
        access.acting_as(reader, Purpose.TREATMENT),
    ):
        rows_of(f"retrieval_embedding_c{mine.pk}")


def test_the_owner_is_held_by_row_level_security_too(var: object) -> None:
    make_encoder()
    make_image(make_collection(), [1, 0, 0])

    with database.connect(var, "owner") as owner:  # type: ignore[arg-type]
        for table in HOLD_PICTURES:
            assert owner.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_a_worker_sees_the_collection_it_works_on_only(as_worker: None) -> None:
    with database.role("web"):
        first, second = make_collection(), make_collection()
        make_image(first)
        make_image(second)

    with access.processing(first.pk):
        assert rows_of("retrieval_image") == [first.pk]
    assert rows_of("retrieval_image") == []


def test_an_application_role_owns_nothing_and_steps_around_nothing() -> None:
    for role in ("web", "worker"):
        with database.role(role):
            access.require_bound_role()


def test_the_owner_and_the_superuser_are_refused_as_application_roles(var: object) -> None:
    with database.role("owner"), pytest.raises(ServicesUnavailable):
        access.require_bound_role()


def test_every_protected_table_forces_its_policies(
    superuser: psycopg.Connection[tuple[object, ...]],
) -> None:
    forced = superuser.execute(
        "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        " AND NOT relispartition"
    ).fetchall()

    assert {name for (name,) in forced} == set(access.PROTECTED_TABLES)
