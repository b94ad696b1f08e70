"""Whose password or second factor somebody else changed opens nothing before a second person."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import DatabaseError, connection
from django.test import override_settings

from retrieval import access, break_glass, holds
from retrieval.errors import AccessDenied, SecondPersonNeeded
from retrieval.models import Collection, Hold, HoldReason, Kind, Purpose, Role, User
from retrieval.models.grant import Capability
from tests.factories import (
    enrol,
    grant,
    make_collection,
    make_encoder,
    make_image,
    make_user,
    operator,
)
from tests.retrieval.test_break_glass import entries
from tests.retrieval.test_row_level_security import HOLD_PICTURES, rows_of
from tests.web.conftest import Superuser

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def collection(db: None) -> Collection:
    make_encoder()
    collection = make_collection()
    make_image(collection, [1, 0, 0])
    return collection


@pytest.fixture
def person(collection: Collection) -> User:
    person = make_user(email="person@ward.example")
    grant(person, collection, Role.OWNER)
    return person


def officer() -> User:
    officer = make_user()
    officer.user_permissions.add(Permission.objects.get(codename="lift_hold"))
    return officer


def opened(actor: User) -> list[int]:
    permitted = access.collections_where(actor, Purpose.TREATMENT, Capability.SEARCH)
    return [c.pk for c in permitted]


def seen(actor: User) -> dict[str, list[int]]:
    """By the second lock alone."""
    with access.acting_as(actor, Purpose.TREATMENT):
        return {table: rows_of(table) for table in HOLD_PICTURES}


def may_lift(actor: User) -> bool:
    with access.acting_as(actor, Purpose.ADMINISTRATION), connection.cursor() as cursor:
        cursor.execute("SELECT cloister_may('lift_hold')")
        (may,) = cursor.fetchone()
    return bool(may)


def test_a_held_account_opens_nothing_by_either_lock(person: User, collection: Collection) -> None:
    person.user_permissions.add(Permission.objects.get(codename="lift_hold"))
    assert opened(person) == [collection.pk]
    before = seen(person)
    assert any(before.values())
    assert may_lift(person)

    hold = holds.place(person, HoldReason.SECOND_FACTOR, by=operator())

    assert opened(person) == []
    assert not any(seen(person).values())
    assert not may_lift(person)
    holds.lift(hold.pk, actor=officer())
    assert opened(person) == [collection.pk]
    assert seen(person) == before


def test_a_hold_closes_glass_that_was_broken_before(collection: Collection) -> None:
    person = make_user()
    enrol(person)
    break_glass.break_glass(collection.name, reason="As a test.", actor=person)
    assert access.opened_by_glass(person) == [collection.pk]

    holds.place(person, HoldReason.PASSWORD, by=operator())

    assert access.opened_by_glass(person) == []


def test_it_is_lifted_once_by_a_second_person(person: User, superuser: Superuser) -> None:
    resetting, other = officer(), officer()
    person.user_permissions.add(Permission.objects.get(codename="lift_hold"))
    hold = holds.place(person, HoldReason.PASSWORD, by=resetting)

    with pytest.raises(SecondPersonNeeded):
        holds.lift(hold.pk, actor=resetting)
    with pytest.raises(AccessDenied):
        holds.lift(hold.pk, actor=make_user())
    with pytest.raises(DatabaseError, match="no right to lift"):
        holds.lift(hold.pk, actor=person)
    with pytest.raises(DatabaseError, match="permission denied"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM retrieval_hold")
    assert holds.count_waiting(other) == 1

    holds.lift(hold.pk, actor=other)

    with pytest.raises(SecondPersonNeeded):
        holds.lift(hold.pk, actor=officer())
    assert holds.count_waiting(other) == 0
    assert Hold.objects.get().lifted_by_id == other.pk
    told = {"hold": hold.pk, "reason": "password", "user": person.pk}
    assert entries(superuser, Kind.HOLD_PLACED) == [told]
    assert entries(superuser, Kind.HOLD_LIFTED) == [told]
    assert entries(superuser, Kind.HOLD_REFUSED) == [{"hold": hold.pk}] * 3


@override_settings(CLOISTER_OFFICER_MAIL="officer@hospital.example")
def test_officer_and_person_are_told_at_once_in_numbers(
    person: User, mailoutbox: list[Any]
) -> None:
    hold = holds.place(person, HoldReason.PASSWORD, by=operator())

    assert [mail.to for mail in mailoutbox] == [["officer@hospital.example"], [person.email]]
    for mail in mailoutbox:
        assert f"hold {hold.pk}" in mail.body
        assert person.username not in mail.subject + mail.body.replace(f"User {person.pk}", "")
