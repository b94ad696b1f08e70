import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from retrieval import access, audit, look
from retrieval.models import Collection, Kind, Purpose, Subject
from tests.factories import grant, make_image, make_user, operator
from tests.web.conftest import Blocked, Log, Superuser, jpeg, signed_in

LIST = "/admin/retrieval/auditevent/"


@pytest.fixture
def entry(db: None) -> int:
    return audit.record(Kind.SEARCH_DENIED, actor=None, query="feedfacefeedface")


def test_the_log_is_shown_to_who_may_read_it_and_reading_it_is_on_it(
    browser: Client, entry: int, log: Log
) -> None:
    assert "feedfacefeedface" in browser.get(LIST).content.decode()
    assert "feedfacefeedface" in browser.get(f"{LIST}{entry}/change/").content.decode()

    assert [e["entry"] for e in log(Kind.AUDIT_READ)] == [None, entry]


def test_the_log_is_not_shown_while_the_look_cannot_be_recorded(
    browser: Client, entry: int, log_blocked: Blocked
) -> None:
    with log_blocked():
        answer = browser.get(LIST)

    assert answer.status_code == 503
    assert "feedface" not in answer.content.decode()


def test_staff_without_the_right_read_nothing(entry: int) -> None:
    clerk = signed_in(make_user(is_staff=True))

    assert clerk.get(LIST).status_code == 403
    assert clerk.post(f"{LIST}verify/").headers["Location"] == "/admin/"


def test_a_privacy_officer_reads_the_log_by_one_right(entry: int) -> None:
    officer = make_user(is_staff=True)
    officer.user_permissions.add(Permission.objects.get(codename="view_auditevent"))

    assert "feedfacefeedface" in signed_in(officer).get(LIST).content.decode()


def test_no_entry_is_added_changed_or_deleted_here(browser: Client, entry: int) -> None:
    for url in (f"{LIST}add/", f"{LIST}{entry}/change/", f"{LIST}{entry}/delete/"):
        assert browser.post(url, {"post": "yes", "kind": "x"}).status_code == 403


def test_verifying_says_how_many_entries_hold_and_is_on_the_log(
    browser: Client, entry: int, log: Log
) -> None:
    page = browser.post(f"{LIST}verify/", follow=True).content.decode()

    (verified,) = log(Kind.AUDIT_VERIFIED)
    assert f"{verified['entries']} entries, the chain holds." in page


def test_verifying_names_the_first_wrong_entry(
    browser: Client, entry: int, superuser: Superuser
) -> None:
    superuser.execute("SET session_replication_role = replica")
    superuser.execute("UPDATE retrieval_auditevent SET kind = 'x' WHERE number = %s", [entry])

    page = browser.post(f"{LIST}verify/", follow=True).content.decode()

    assert f"Entry {entry}: it is not as it was written." in page


def test_verifying_takes_a_post(browser: Client, entry: int) -> None:
    assert browser.get(f"{LIST}verify/").status_code == 405


def test_the_report_on_a_subject_names_who_saw_its_images_and_is_on_the_log(
    browser: Client, collection: Collection, log: Log
) -> None:
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        subject, other = (
            Subject.objects.create(collection=collection, pseudonym=name) for name in "ab"
        )
    image, another = (
        make_image(collection, preview=jpeg(), subject=one) for one in (subject, other)
    )
    reader = make_user("=reader")
    grant(reader, collection)
    for seen in (image, another):
        look.look_at(seen.pk, actor=reader, purpose=Purpose.TREATMENT)

    url = "/admin/retrieval/auditevent/subject/"
    page = browser.get(url, {"subject": subject.pk}).content.decode()
    file = browser.get(f"{url}export/", {"subject": subject.pk})

    assert page.count("image.viewed") == 1
    assert "=reader" in page
    assert file["Content-Disposition"].startswith("attachment")
    assert file.content.decode().splitlines()[1].endswith("image.viewed,'=reader,TREAT")
    assert log(Kind.SUBJECT_REPORTED) == [{"entries": 1, "subject": subject.pk}] * 2
    assert "entries on images" not in browser.get(url, {"subject": "x"}).content.decode()


def test_who_may_not_read_the_log_gets_no_report(db: None) -> None:
    clerk = signed_in(make_user(is_staff=True))

    for path in ("", "export/"):
        url = f"/admin/retrieval/auditevent/subject/{path}"
        assert clerk.get(url, {"subject": 1}).status_code == 403
