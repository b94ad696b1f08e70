"""Both locks open for a while, and a second person looks at why. Raw SQL tries the second lock."""

import json
import logging
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Permission
from django.db import DatabaseError, connection
from django.test import override_settings
from django.utils import timezone

from retrieval import access, break_glass, holds
from retrieval.errors import AccessDenied, SecondPersonNeeded
from retrieval.models import (
    Authenticator,
    BreakGlass,
    Collection,
    Grant,
    Hold,
    Kind,
    Purpose,
    Role,
    User,
    Verdict,
)
from retrieval.models.grant import CAPABILITIES, Capability
from tests.factories import (
    enrol,
    enrol_now,
    grant,
    make_collection,
    make_encoder,
    make_image,
    make_user,
)
from tests.retrieval.test_row_level_security import HOLD_PICTURES, rows_of

Superuser = psycopg.Connection[tuple[Any, ...]]

REASON = "The patient in room four does not answer."


@pytest.fixture
def collection(db: None) -> Collection:
    make_encoder()
    collection = make_collection("ward photographs")
    make_image(collection, [1, 0, 0])
    return collection


@pytest.fixture
def physician(db: None) -> User:
    physician = make_user("physician")
    enrol(physician)
    return physician


@pytest.fixture
def officer(db: None) -> User:
    officer = make_user("officer")
    officer.user_permissions.add(Permission.objects.get(codename="review_breakglass"))
    enrol(officer)
    return officer


def opened(actor: User, purpose: Purpose = Purpose.EMERGENCY) -> list[int]:
    """What the first lock opens for a search."""
    return [c.pk for c in access.collections_where(actor, purpose, Capability.SEARCH)]


def entries(superuser: Superuser, kind: Kind) -> list[dict[str, Any]]:
    rows = superuser.execute("SELECT details FROM retrieval_auditevent WHERE kind = %s", [kind])
    return [json.loads(str(details)) for (details,) in rows]


@pytest.mark.parametrize("table", HOLD_PICTURES)
def test_broken_glass_opens_both_locks_for_emergency_treatment_alone(
    table: str, collection: Collection, physician: User
) -> None:
    foreign = make_collection()
    make_image(foreign, [1, 0, 0])

    break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    assert opened(physician) == [collection.pk]
    with access.acting_as(physician, Purpose.EMERGENCY):
        assert rows_of(table) == [collection.pk]
    assert opened(physician, Purpose.TREATMENT) == []
    with access.acting_as(physician, Purpose.TREATMENT):
        assert rows_of(table) == []
    with access.acting_as(make_user(), Purpose.EMERGENCY):
        assert rows_of(table) == []


def test_it_opens_what_a_searcher_may_and_no_more(collection: Collection, physician: User) -> None:
    break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    may = {
        capability
        for capability in Capability
        if access.collections_where(physician, Purpose.EMERGENCY, capability)
    }
    assert may == set(CAPABILITIES[Role.SEARCHER])
    with (
        pytest.raises(DatabaseError),
        access.acting_as(physician, Purpose.EMERGENCY),
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "INSERT INTO retrieval_subject (collection_id, pseudonym) VALUES (%s, 'x')",
            [collection.pk],
        )


@pytest.mark.parametrize(
    "end",
    [
        "UPDATE retrieval_breakglass SET opened_at = now() - interval '2 h',"
        " open_until = now() - interval '1 h'",
        "UPDATE retrieval_breakglass SET opened_at = now() + interval '1 h',"
        " open_until = now() + interval '2 h'",
        "UPDATE retrieval_breakglass SET closed_at = now()",
        "UPDATE retrieval_user SET is_active = false WHERE username = 'physician'",
    ],
    ids=["over", "not begun", "closed", "account closed"],
)
def test_outside_of_its_window_it_opens_neither_lock(
    end: str, collection: Collection, physician: User, superuser: Superuser
) -> None:
    break_glass.break_glass(collection.name, reason=REASON, actor=physician)
    superuser.execute(end)

    assert opened(physician) == []
    with access.acting_as(physician, Purpose.EMERGENCY):
        assert rows_of("retrieval_image") == []


def test_it_lasts_an_hour_by_the_databases_clock(collection: Collection, physician: User) -> None:
    broken = break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    assert broken.open_until - broken.opened_at == timedelta(hours=1)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO retrieval_breakglass (id, user_id, collection_id, originals, sealed_reason,"
        " opened_at, open_until, verdict) SELECT gen_random_uuid(), {user}, {collection}, true,"
        " '', now(), now() + interval '9 years', ''",
        "UPDATE retrieval_breakglass SET open_until = now() + interval '9 years'",
        "UPDATE retrieval_breakglass SET originals = true",
        "DELETE FROM retrieval_breakglass",
    ],
)
def test_the_web_role_writes_no_row_past_the_functions(
    statement: str, collection: Collection, physician: User
) -> None:
    break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    with (
        pytest.raises(DatabaseError, match="permission denied"),
        access.acting_as(physician, Purpose.EMERGENCY),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement.format(user=physician.pk, collection=collection.pk))


def test_others_do_not_see_that_somebody_broke_the_glass(
    collection: Collection, physician: User, officer: User
) -> None:
    break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    for actor, seen in ((physician, 1), (officer, 1), (make_user(), 0)):
        with access.acting_as(actor, Purpose.ADMINISTRATION):
            assert BreakGlass.objects.count() == seen
    assert BreakGlass.objects.count() == 0


def test_it_is_on_the_log_and_told_at_once_without_words(
    collection: Collection,
    physician: User,
    superuser: Superuser,
    caplog: pytest.LogCaptureFixture,
    mailoutbox: list[Any],
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        override_settings(CLOISTER_OFFICER_MAIL="officer@hospital.example"),
    ):
        broken = break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    (entry,) = entries(superuser, Kind.GLASS_BROKEN)
    assert entry["break_glass"] == str(broken.pk)
    assert entry["collection"] == collection.pk
    (mail,) = mailoutbox
    assert str(broken.pk) in caplog.text
    assert str(broken.pk) in mail.body
    for told in (json.dumps(entry), caplog.text, mail.subject + mail.body):
        for word in ("room four", collection.name, "physician"):
            assert word not in told
    row = superuser.execute("SELECT sealed_reason FROM retrieval_breakglass").fetchone()
    assert row is not None
    assert b"room four" not in bytes(row[0])


def test_a_mail_server_that_is_away_holds_up_no_emergency(
    collection: Collection, physician: User, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(
        CLOISTER_OFFICER_MAIL="officer@hospital.example",
        EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=9,
    ):
        break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    assert opened(physician) == [collection.pk]
    assert "not mailed" in caplog.text


def test_what_is_not_there_and_what_has_no_reason_opens_nothing(
    collection: Collection, physician: User, superuser: Superuser
) -> None:
    with pytest.raises(AccessDenied):
        break_glass.break_glass("no such ward", reason=REASON, actor=physician)
    with pytest.raises(ValueError, match="reason"):
        break_glass.break_glass(collection.name, reason="  because  ", actor=physician)

    assert opened(physician) == []
    assert len(entries(superuser, Kind.GLASS_REFUSED)) == 1


def test_a_second_person_reviews_and_nobody_their_own(
    collection: Collection, officer: User, superuser: Superuser
) -> None:
    second = make_user()
    second.user_permissions.add(Permission.objects.get(codename="review_breakglass"))
    broken = break_glass.break_glass(collection.name, reason=REASON, actor=officer)

    with pytest.raises(SecondPersonNeeded):
        break_glass.review(broken.pk, Verdict.JUSTIFIED, actor=officer)
    with (
        pytest.raises(DatabaseError, match="second person"),
        access.acting_as(officer, Purpose.ADMINISTRATION),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT cloister_review_glass(%s, 'justified')", [broken.pk])
    with pytest.raises(AccessDenied):
        break_glass.review(broken.pk, Verdict.JUSTIFIED, actor=make_user())
    assert break_glass.count_unreviewed(second) == 1

    break_glass.review(broken.pk, Verdict.JUSTIFIED, actor=second)

    assert break_glass.count_unreviewed(second) == 0
    (entry,) = entries(superuser, Kind.GLASS_REVIEWED)
    assert entry["verdict"] == "justified"
    with pytest.raises(AccessDenied):
        break_glass.review(broken.pk, Verdict.NOT_JUSTIFIED, actor=second)


def test_what_was_not_justified_is_closed(
    collection: Collection, physician: User, officer: User
) -> None:
    broken = break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    break_glass.review(broken.pk, Verdict.NOT_JUSTIFIED, actor=officer)

    assert opened(physician) == []


def test_what_was_not_justified_is_the_breakers_last_until_an_officer_says_otherwise(
    collection: Collection, physician: User, officer: User
) -> None:
    officer.user_permissions.add(Permission.objects.get(codename="lift_hold"))
    officer = User.objects.get(pk=officer.pk)
    broken = break_glass.break_glass(collection.name, reason=REASON, actor=physician)
    break_glass.review(broken.pk, Verdict.NOT_JUSTIFIED, actor=officer)

    assert_breaks_nothing(physician, collection)

    grant(physician, collection, Role.SEARCHER, Purpose.TREATMENT)
    assert opened(physician, Purpose.TREATMENT) == [collection.pk]  # what was granted stays
    holds.lift(Hold.objects.get(user=physician).pk, actor=officer)
    break_glass.break_glass(collection.name, reason=REASON, actor=physician)
    assert opened(physician) == [collection.pk]


def test_a_second_factor_of_today_breaks_no_glass(collection: Collection, physician: User) -> None:
    """Nor none at all. Another app in place of an old one does."""
    User.objects.filter(pk=physician.pk).update(date_joined=timezone.now() - timedelta(days=2))
    Authenticator.objects.filter(user=physician).delete()
    assert_breaks_nothing(physician, collection)
    enrol_now(physician)
    assert_breaks_nothing(physician, collection)

    Authenticator.objects.filter(user=physician).delete()
    enrol(physician)
    enrol_now(physician)
    break_glass.break_glass(collection.name, reason=REASON, actor=physician)


def test_a_new_accounts_first_second_factor_breaks_it(
    collection: Collection, physician: User
) -> None:
    """It was set up with the password that was handed over: nobody else had it for long."""
    Authenticator.objects.filter(user=physician).delete()
    assert_breaks_nothing(physician, collection)
    enrol_now(physician)
    password = physician.password
    physician.set_unusable_password()  # as the directory's accounts have
    physician.save()
    assert_breaks_nothing(physician, collection)
    User.objects.filter(pk=physician.pk).update(password=password)
    break_glass.break_glass(collection.name, reason=REASON, actor=physician)
    assert opened(physician) == [collection.pk]


def assert_breaks_nothing(actor: User, collection: Collection) -> None:
    """Not by the first lock and, asked by SQL, not by the second."""
    with pytest.raises(AccessDenied):
        break_glass.break_glass(collection.name, reason=REASON, actor=actor)
    with (
        pytest.raises(DatabaseError, match="nobody acts here"),
        access.acting_as(actor, Purpose.EMERGENCY),
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "SELECT cloister_break_glass(gen_random_uuid(), %s, true, '')", [collection.pk]
        )


def test_its_breaker_closes_it_and_no_stranger_does(
    collection: Collection, physician: User
) -> None:
    broken = break_glass.break_glass(collection.name, reason=REASON, actor=physician)

    with pytest.raises(AccessDenied):
        break_glass.close(broken.pk, actor=make_user())
    break_glass.close(broken.pk, actor=physician)

    assert break_glass.open_to(physician) == []
    assert opened(physician) == []


def test_originals_are_opened_only_where_they_were_asked_for(
    collection: Collection, physician: User
) -> None:
    grant(physician, collection, Role.OWNER, *Purpose)
    assert Grant.objects.filter(user=physician).exists()
    for purpose in Purpose:
        with pytest.raises(AccessDenied):
            break_glass.require_originals(physician, purpose, collection.pk)
    break_glass.break_glass(collection.name, reason=REASON, actor=physician)
    with pytest.raises(AccessDenied):
        break_glass.require_originals(physician, Purpose.EMERGENCY, collection.pk)

    break_glass.break_glass(collection.name, reason=REASON, actor=physician, originals=True)

    break_glass.require_originals(physician, Purpose.EMERGENCY, collection.pk)
    with pytest.raises(AccessDenied):
        break_glass.require_originals(physician, Purpose.TREATMENT, collection.pk)
