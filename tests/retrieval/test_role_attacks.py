"""What a role of the appliance might try with SQL of its own, had somebody taken it over."""

from collections.abc import Iterator

import psycopg
import pytest
from django.db import ProgrammingError

from retrieval import access
from retrieval.models import Image, Purpose, Role, State
from retrieval.models.grant import CAPABILITIES, Capability
from tests import database
from tests.factories import grant, make_collection, make_image, make_user

pytestmark = pytest.mark.usefixtures("db")

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(params=["web", "worker"])
def role(request: pytest.FixtureRequest, var: object, db: None) -> Iterator[Connection]:
    with database.connect(var, request.param) as connected:  # type: ignore[arg-type]
        yield connected


def test_no_role_makes_temporary_tables(role: Connection) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        role.execute("CREATE TEMPORARY TABLE retrieval_audithead (number bigint)")


def test_no_function_of_the_owner_looks_into_temporary_schemas_first(
    superuser: Connection,
) -> None:
    """Not listed, pg_temp would be searched before all: a table there could pass as ours."""
    rows = superuser.execute(
        "SELECT proname, array_to_string(proconfig, ' ') FROM pg_proc"
        " WHERE prosecdef AND proname LIKE 'cloister%'"
    ).fetchall()

    assert len(rows) >= 5
    for name, settings in rows:
        assert str(settings).endswith("pg_catalog, public, pg_temp"), name


def test_a_table_that_stands_before_the_logs_head_does_not_forge_it(
    superuser: Connection, var: object
) -> None:
    superuser.execute("GRANT TEMPORARY ON DATABASE cloister TO cloister_web")
    try:
        with database.connect(var, "web") as web:  # type: ignore[arg-type]
            web.execute(
                "CREATE TEMPORARY TABLE retrieval_audithead AS"
                " SELECT true AS only_row, 900000::bigint AS number, 'x'::bytea AS entry_hash"
            )
            (number,) = web.execute(
                "SELECT cloister_audit_append('search.served', NULL, '', '{}')"
            ).fetchone() or (None,)
    finally:
        superuser.execute("REVOKE TEMPORARY ON DATABASE cloister FROM cloister_web")

    assert number == 1


def test_functions_are_open_to_those_who_need_them_only(superuser: Connection) -> None:
    rows = superuser.execute(
        "SELECT p.proname, r.rolname FROM pg_proc p, pg_roles r"
        " WHERE p.proname LIKE 'cloister%' AND r.rolname IN ('cloister_web', 'cloister_worker')"
        " AND has_function_privilege(r.oid, p.oid, 'EXECUTE')"
    ).fetchall()

    assert set(rows) == {
        ("cloister_context_id", "cloister_web"),
        ("cloister_context_id", "cloister_worker"),
        ("cloister_audit_append", "cloister_web"),
        ("cloister_audit_append", "cloister_worker"),
        ("cloister_granted", "cloister_web"),
        ("cloister_may_read_log", "cloister_web"),
        ("cloister_may", "cloister_web"),
        ("cloister_set_budget", "cloister_web"),
        ("cloister_approve_raise", "cloister_web"),
        ("cloister_lock_budget", "cloister_worker"),
        ("cloister_spends_more", "cloister_worker"),
        ("cloister_trainer", "cloister_worker"),
        ("cloister_is_second_person", "cloister_web"),
        ("cloister_break_glass", "cloister_web"),
        ("cloister_close_glass", "cloister_web"),
        ("cloister_review_glass", "cloister_web"),
        ("cloister_unreviewed_glass", "cloister_web"),
        ("cloister_glass_broken", "cloister_web"),
        ("cloister_glass_broken", "cloister_worker"),
        ("cloister_sweep_kept_queries", "cloister_worker"),
        ("cloister_sweep_uploads", "cloister_worker"),
        ("cloister_own_tokens", "cloister_web"),
        ("cloister_build_index", "cloister_worker"),
        ("cloister_drop_index", "cloister_worker"),
        ("cloister_drop_broken_indexes", "cloister_worker"),
        ("cloister_note_rebuilt", "cloister_worker"),
        ("cloister_empty_partition", "cloister_worker"),
        ("cloister_lift_hold", "cloister_web"),
    }


@pytest.mark.parametrize(
    "column", ["wrapped_key", "content_key", "sealed_name", "collection_id", "batch_id"]
)
def test_the_web_role_does_not_rewrite_what_an_image_is(column: str) -> None:
    curator, mine = make_user(), make_collection()
    grant(curator, mine, Role.OWNER)
    image = make_image(mine)

    with (
        pytest.raises(ProgrammingError, match="permission denied"),
        access.acting_as(curator, Purpose.TREATMENT),
    ):
        image.save(update_fields=[column])


@pytest.mark.parametrize("role_name", list(Role))
def test_both_locks_agree_on_who_may_decide(role_name: Role) -> None:
    user, mine = make_user(), make_collection()
    grant(user, mine, role_name)
    image = make_image(mine, state=State.REVIEW)

    with access.acting_as(user, Purpose.TREATMENT):
        changed = Image.objects.filter(pk=image.pk).update(state=State.REJECTED)

    assert bool(changed) == bool(CAPABILITIES[role_name] & {Capability.REVIEW, Capability.INGEST})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE retrieval_encoderversion SET live = true",
        "INSERT INTO retrieval_encoderversion (name, digest, dimensions, licence, source, live,"
        " added_at) VALUES ('evil', '', 3, '', '/tmp', false, now())",
        "INSERT INTO retrieval_embedding VALUES (1, gen_random_uuid(), 1, 0, '[1,2,3]')",
        "ALTER TABLE retrieval_image DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mine (a int)",
        "SET ROLE cloister_owner",
        "DROP TRIGGER append_only ON retrieval_auditevent",
    ],
)
def test_the_web_role_has_no_business_there(statement: str, var: object) -> None:
    with database.connect(var, "web") as web, pytest.raises(psycopg.errors.InsufficientPrivilege):  # type: ignore[arg-type]
        web.execute(statement)
