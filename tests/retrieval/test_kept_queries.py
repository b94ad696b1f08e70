"""What was asked is kept where a collection wants it, sealed, read on the log, and deleted."""

import json

import pytest
from django.contrib.auth.models import Permission
from django.db import DatabaseError, connection

from retrieval import access, break_glass, kept_queries
from retrieval.errors import AccessDenied
from retrieval.models import Collection, KeptQuery, Kind, Purpose, User
from retrieval.query import Query
from retrieval.search import search
from tests import database
from tests.factories import grant, make_collection, make_encoder, make_user
from tests.web.conftest import Superuser, encoder_answers, signed_in

__all__ = ["encoder_answers"]

pytestmark = pytest.mark.usefixtures("encoder_answers")

WORDS = "fracture of Erika Mustermann"


@pytest.fixture
def reader(db: None) -> User:
    return make_user("reader")


@pytest.fixture
def officer(db: None) -> User:
    officer = make_user("officer", is_staff=True)
    officer.user_permissions.add(Permission.objects.get(codename="view_keptquery"))
    return officer


def opened_to(reader: User, days: int | None) -> Collection:
    collection = make_collection(keep_queries_days=days)
    grant(reader, collection)
    return collection


def ask(reader: User, *collections: Collection) -> int:
    wanted = Query(words=WORDS, image=b"an example", collections=[c.pk for c in collections])
    return search(wanted, actor=reader, purpose=Purpose.TREATMENT).audit_number


def test_nothing_is_kept_unless_a_collection_wants_it(reader: User, superuser: Superuser) -> None:
    make_encoder()
    ask(reader, opened_to(reader, None))

    assert superuser.execute("SELECT count(*) FROM retrieval_keptquery").fetchone() == (0,)


def test_a_kept_query_is_sealed_and_read_by_an_officer_on_the_log(
    reader: User, officer: User, superuser: Superuser
) -> None:
    make_encoder()
    entry = ask(reader, opened_to(reader, 30), opened_to(reader, None))
    row = superuser.execute("SELECT * FROM retrieval_keptquery").fetchone()
    assert row is not None
    told = b" ".join(bytes(v) if isinstance(v, bytes) else str(v).encode() for v in row)
    assert b"Mustermann" not in told
    assert b"an example" not in told

    with access.acting_as(officer, Purpose.ADMINISTRATION):
        kept = KeptQuery.objects.get(entry=entry)
    asked = kept_queries.read(kept.pk, actor=officer)

    assert WORDS in asked.words
    assert asked.images == 1
    details = superuser.execute(
        "SELECT details FROM retrieval_auditevent WHERE kind = %s", [Kind.QUERY_READ]
    ).fetchone()
    assert details is not None
    assert json.loads(str(details[0])) == {
        "entry": entry,
        "image": None,
        "query": str(kept.pk),
        "user": reader.pk,
    }


def test_nobody_else_reads_it_not_even_who_asked(reader: User, superuser: Superuser) -> None:
    make_encoder()
    ask(reader, opened_to(reader, 30))
    row = superuser.execute("SELECT id FROM retrieval_keptquery").fetchone()
    assert row is not None

    with pytest.raises(AccessDenied):
        kept_queries.read(row[0], actor=reader)
    for purpose in (Purpose.TREATMENT, Purpose.ADMINISTRATION):
        with access.acting_as(reader, purpose), connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM retrieval_keptquery")
            assert cursor.fetchone() == (0,)
    with (
        pytest.raises(DatabaseError, match="row-level security"),
        access.acting_as(reader, Purpose.TREATMENT),
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "INSERT INTO retrieval_keptquery SELECT gen_random_uuid(), 99, '', '', '', now(),"
            " now(), id, '{}' FROM retrieval_user WHERE username = 'operator'"
        )


def test_when_its_time_is_over_it_is_not_read_and_the_sweep_deletes_it(
    reader: User, officer: User, superuser: Superuser
) -> None:
    make_encoder()
    collection = opened_to(reader, 30)
    old, young = ask(reader, collection), ask(reader, collection)
    superuser.execute("UPDATE retrieval_keptquery SET delete_after = now() WHERE entry = %s", [old])

    with access.acting_as(officer, Purpose.ADMINISTRATION):
        assert [kept.entry for kept in KeptQuery.objects.all()] == [young]
    with database.role("worker"):
        assert kept_queries.sweep() == 1
        assert kept_queries.sweep() == 0

    assert superuser.execute("SELECT entry FROM retrieval_keptquery").fetchall() == [(young,)]
    swept = superuser.execute(
        "SELECT details FROM retrieval_auditevent WHERE kind = %s", [Kind.QUERIES_DELETED]
    ).fetchall()
    assert swept == [('{"count":1}',)]


def test_without_its_row_a_kept_query_has_no_key(reader: User, superuser: Superuser) -> None:
    """Two queries do not share a key: what a backup has of one opens no other."""
    make_encoder()
    collection = opened_to(reader, 30)
    ask(reader, collection), ask(reader, collection)
    first, second = superuser.execute("SELECT wrapped_key FROM retrieval_keptquery").fetchall()

    assert first != second


def test_the_officers_page_shows_it_and_an_example_takes_what_an_original_takes(
    reader: User, officer: User, superuser: Superuser
) -> None:
    make_encoder()
    collection = opened_to(reader, 30)
    ask(reader, collection)
    (kept,) = superuser.execute("SELECT id FROM retrieval_keptquery").fetchall()[0]
    desk, url = signed_in(officer), f"/admin/retrieval/keptquery/{kept}"

    assert "Mustermann" not in desk.get("/admin/retrieval/keptquery/").content.decode()
    assert "Mustermann" in desk.get(f"{url}/change/").content.decode()
    for name, originals in ((make_collection().name, True), (collection.name, False)):
        break_glass.break_glass(name, reason="As a test.", actor=officer, originals=originals)
        assert desk.get(f"{url}/image/1/").status_code == 404
    break_glass.break_glass(collection.name, reason="As a test.", actor=officer, originals=True)
    example = desk.get(f"{url}/image/1/")
    assert example.content == b"an example"
    assert example.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in example.headers["Content-Security-Policy"]
    assert desk.get(f"{url}/image/2/").status_code == 404
    clerk = signed_in(make_user(is_staff=True))
    assert clerk.get(f"{url}/change/").status_code == 404
    assert clerk.get(f"{url}/image/1/").status_code == 404
