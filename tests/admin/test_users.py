import pytest
from django.contrib.auth.models import Group, Permission
from django.test import Client

from retrieval import second_factor
from retrieval.models import Collection, Hold, Kind, Role, User
from tests.factories import enrol, grant, make_account, make_user
from tests.web.conftest import Log, signed_in

NEW = "a staple for the battery"


def permissions(*names: str) -> list[Permission]:
    return list(Permission.objects.filter(codename__in=names))


def test_a_new_account_has_a_password_for_one_sign_in_and_is_on_the_log(
    browser: Client, log: Log
) -> None:
    browser.post(
        "/admin/retrieval/user/add/",
        {"username": "ben", "password1": NEW, "password2": NEW},
    )

    ben = User.objects.get(username="ben")
    assert ben.must_change_password
    assert ben.check_password(NEW)
    entries = log(Kind.USER_CHANGED)
    assert entries[-1] == {"change": "added", "fields": None, "user": ben.pk}


def test_a_password_set_by_somebody_else_is_good_for_one_sign_in_and_on_the_log(
    browser: Client, log: Log
) -> None:
    ben = make_user("ben")

    form = {"password1": NEW, "password2": NEW, "usable_password": "true", "set-password": "1"}
    browser.post(f"/admin/retrieval/user/{ben.pk}/password/", form)

    ben.refresh_from_db()
    assert ben.check_password(NEW)
    assert ben.must_change_password
    assert [e["user"] for e in log(Kind.USER_CHANGED)] == [ben.pk]
    (hold,) = log(Kind.HOLD_PLACED)
    assert (hold["user"], hold["reason"]) == (ben.pk, "password")


def test_a_reset_account_opens_its_own_page_alone_until_a_second_person_lifts_the_hold(
    browser: Client, administrator: User, log: Log
) -> None:
    ben, officer = make_user("ben"), make_user("officer", is_staff=True)
    officer.user_permissions.set(permissions("lift_hold"))
    enrol(ben)
    browser.post(f"/admin/retrieval/user/{ben.pk}/second-factor/reset/")
    taken_over, desk = Client(), signed_in(officer)
    taken_over.force_login(ben)

    for address in ("/", "/collections/", "/break-glass/"):
        answer = taken_over.get(address)
        assert answer.status_code == 403
        assert "opens nothing" in answer.content.decode()
    assert "tell the privacy officer" in taken_over.get("/account").content.decode()
    hold = Hold.objects.get(user=ben)
    browser.post(f"/admin/retrieval/hold/{hold.pk}/lift/")
    assert taken_over.get("/").status_code == 403
    assert "Accounts held: 1" in desk.get("/admin/").content.decode()
    assert "second factor" in desk.get("/admin/retrieval/hold/").content.decode()

    desk.post(f"/admin/retrieval/hold/{hold.pk}/lift/")

    assert taken_over.get("/").status_code == 200
    assert [e["user"] for e in log(Kind.HOLD_LIFTED)] == [ben.pk]


def test_nobody_sets_their_own_password_past_the_old_one(
    browser: Client, administrator: User
) -> None:
    form = {"password1": NEW, "password2": NEW, "usable_password": "true", "set-password": "1"}

    answer = browser.post(f"/admin/retrieval/user/{administrator.pk}/password/", form)

    administrator.refresh_from_db()
    assert answer.headers["Location"] == "/password"
    assert not administrator.check_password(NEW)


def test_a_list_is_not_narrowed_by_what_it_does_not_offer(browser: Client) -> None:
    for hidden in (
        "user/?password__startswith=a",
        "user/?directory_id=x",
        "image/?sealed_name__startswith=a",
        "image/?content_key=a",
        "apitoken/?digest__startswith=a",
        "keptquery/?sealed_words__contains=a",
        "grant/?role__exact=%00",
        "auditevent/?purpose=%00",
    ):
        assert browser.get(f"/admin/retrieval/{hidden}").status_code == 400, hidden
    for offered in (
        "user/?is_staff__exact=1",
        "image/?state__exact=review",
        "image/?collection=1",
        "image/?collection=²",
        f"auditevent/?p={'9' * 5000}",
    ):
        assert browser.get(f"/admin/retrieval/{offered}").status_code == 200, offered


def test_a_change_of_rights_is_on_the_log_without_values(browser: Client, log: Log) -> None:
    ben, group = make_user("ben", must_change_password=True), Group.objects.create(name="wards")
    joined = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}

    browser.post(
        f"/admin/retrieval/user/{ben.pk}/change/",
        {"username": "ben", "email": "ben@ward.example", "is_staff": "on", "groups": [group.pk]}
        | joined,
    )

    (entry,) = log(Kind.USER_CHANGED)
    assert entry["user"] == ben.pk
    assert set(entry["fields"]) >= {"Staff status", "Active", "Groups"}
    assert (entry["groups"], entry["permissions"]) == ([group.pk], [])
    ben.refresh_from_db()
    assert ben.must_change_password  # a form does not make a handed out password last
    assert "ward.example" not in str(entry)


def test_accounts_are_closed_and_never_deleted(browser: Client) -> None:
    ben = make_user("ben")

    answer = browser.post(f"/admin/retrieval/user/{ben.pk}/delete/", {"post": "yes"})

    assert answer.status_code == 403
    assert User.objects.filter(pk=ben.pk).exists()


@pytest.fixture
def clerk(db: None) -> User:
    """May edit accounts, and is no superuser."""
    user = make_user("clerk", is_staff=True)
    user.user_permissions.set(permissions("view_user", "change_user", "add_user"))
    return user


def test_who_edits_accounts_does_not_make_the_own_one_all_powerful(clerk: User) -> None:
    signed_in(clerk).post(
        f"/admin/retrieval/user/{clerk.pk}/change/",
        {"username": "clerk", "is_active": "on", "is_staff": "on", "is_superuser": "on"},
    )

    clerk.refresh_from_db()
    assert not clerk.is_superuser


def test_who_edits_accounts_does_not_take_over_an_all_powerful_one(
    clerk: User, administrator: User
) -> None:
    form = {"password1": NEW, "password2": NEW, "usable_password": "true", "set-password": "1"}

    answer = signed_in(clerk).post(f"/admin/retrieval/user/{administrator.pk}/password/", form)

    administrator.refresh_from_db()
    assert answer.status_code == 403
    assert not administrator.check_password(NEW)


@pytest.mark.parametrize("door", ["password", "second-factor/reset", "change"])
def test_who_edits_accounts_does_not_take_over_an_officers(clerk: User, door: str) -> None:
    officer = make_user("officer", is_staff=True)
    officer.user_permissions.set(permissions("review_breakglass"))
    enrol(officer)
    form = {"password1": NEW, "password2": NEW, "usable_password": "true", "set-password": "1"}

    answer = signed_in(clerk).post(
        f"/admin/retrieval/user/{officer.pk}/{door}/", form | {"username": "mine"}
    )

    officer.refresh_from_db()
    assert answer.status_code == 403
    assert not officer.check_password(NEW)
    assert second_factor.is_enrolled(officer)
    assert officer.username == "officer"


@pytest.mark.parametrize("is_new", [True, False])
def test_who_edits_groups_gives_no_rights_to_one_of_their_own(clerk: User, is_new: bool) -> None:
    clerk.user_permissions.set(permissions("view_group", "change_group", "add_group"))
    group = Group.objects.create(name="clerks")
    clerk.groups.add(group)
    rights = [each.pk for each in permissions("review_breakglass")]
    place, name = ("add", "new") if is_new else (f"{group.pk}/change", "clerks")

    answer = signed_in(clerk).post(
        f"/admin/auth/group/{place}/", {"name": name, "permissions": rights}
    )

    assert answer.status_code == 302
    assert not Group.objects.get(name=name).permissions.exists()


def test_what_the_database_says_of_a_refused_row_is_not_written_to_the_log_file(
    browser: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two add the same group at once."""
    Group.objects.create(name="secret-name")
    monkeypatch.setattr(Group, "validate_unique", lambda *_arguments, **_named: None)

    answer = browser.post("/admin/auth/group/add/", {"name": "secret-name"})

    assert answer.status_code == 503
    assert "secret-name" not in caplog.text
    assert "no answer: IntegrityError" in caplog.text


def test_a_program_is_not_edited_as_a_person_is(browser: Client) -> None:
    """As staff, say: the database would refuse it, where a form should."""
    program = make_account()

    answer = browser.get(f"/admin/retrieval/user/{program.pk}/change/", follow=True)

    assert "doesn’t exist" in answer.content.decode()


def test_the_rights_of_a_new_group_are_on_the_log(browser: Client, log: Log) -> None:
    (right,) = permissions("lift_hold")

    browser.post("/admin/auth/group/add/", {"name": "officers", "permissions": [right.pk]})

    assert log(Kind.USER_CHANGED)[-1]["permissions"] == [right.pk]


def test_a_group_that_holds_grants_is_not_deleted(browser: Client, collection: Collection) -> None:
    group = Group.objects.create(name="nurses")
    grant(None, collection, Role.VIEWER, group=group)  # type: ignore[arg-type]

    browser.post(f"/admin/auth/group/{group.pk}/delete/", {"post": "yes"})

    assert Group.objects.filter(pk=group.pk).exists()
