import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from appliance.directory import ldap
from appliance.directory import names as names_of
from appliance.directory.configuration import Ldap, SignIn
from appliance.web.middleware import CHECKED_AT
from retrieval import second_factor
from retrieval.errors import ServicesUnavailable
from retrieval.models import Kind, Session, User
from tests.directory import slapd
from tests.directory.slapd import PASSWORD, SERVICE, SUFFIX, Slapd
from tests.factories import make_user
from tests.web.conftest import Log, log

__all__ = ["log"]

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture(scope="module")
def server() -> Iterator[Slapd]:
    with tempfile.TemporaryDirectory(prefix="slapd") as folder, slapd.running(Path(folder)) as it:
        yield it


@pytest.fixture(autouse=True)
def directory(server: Slapd, settings: Any) -> Ldap:
    configured = Ldap(
        server=server.ldaps,
        authority=str(server.certificate),
        bind_dn=SERVICE,
        bind_password=PASSWORD,
        users=f"ou=people,{SUFFIX}",
        groups=f"ou=groups,{SUFFIX}",
        account_filter="(&(objectClass=inetOrgPerson)(!(employeeType=closed)))",
    )
    settings.CLOISTER_SIGN_IN = SignIn(
        ldap=configured,
        groups={"radiology-staff": "Radiology", "elsewhere": "Elsewhere"},
        staff_groups=frozenset({"it"}),
    )
    return configured


def set_type(server: Slapd, name: str, value: str) -> None:
    server.change(
        f"dn: uid={name},ou=people,{SUFFIX}\nchangetype: modify\n"
        f"replace: employeeType\nemployeeType: {value}\n"
    )


@pytest.fixture
def lea_closed(server: Slapd) -> Iterator[None]:
    set_type(server, "lea", "closed")
    yield
    set_type(server, "lea", "open")


def sign_in(name: str, password: str = PASSWORD) -> Client:
    client = Client(raise_request_exception=False)
    client.post("/sign-in", {"username": name, "password": password})
    return client


def is_in(client: Client) -> bool:
    return client.get("/account").status_code == 200


def test_who_the_directory_knows_gets_an_account_with_its_groups_and_nothing_more(
    log: Log,
) -> None:
    client = sign_in("LEA")

    assert is_in(client)
    lea = User.objects.get(username="lea")
    assert [group.name for group in lea.groups.all()] == ["Radiology"]
    assert (lea.directory, lea.is_staff, lea.is_superuser) == ("ldap", False, False)
    assert not lea.has_usable_password()
    assert [e["change"] for e in log(Kind.USER_CHANGED)] == ["made from directory", "directory"]
    assert len(log(Kind.SIGNED_IN)) == 1

    sign_in("lea")
    assert User.objects.filter(directory="ldap").count() == 1


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("lea", "wrong"),
        ("lea", ""),
        ("nobody", PASSWORD),
        ("*", PASSWORD),
        ("le*", PASSWORD),
        ("lea)(uid=*", PASSWORD),
        ("lea\x00", PASSWORD),
        (f"uid=lea,ou=people,{SUFFIX}", PASSWORD),
        ("cloister", PASSWORD),
    ],
)
def test_nobody_else_is_let_in(name: str, password: str) -> None:
    assert not is_in(sign_in(name, password))
    assert not User.objects.exclude(username="operator").exists()


@pytest.mark.parametrize(
    "value", [bytes.fromhex("9a3c00f1" * 4), b"a\x00b", b"hex:00", "Zoë-17".encode()]
)
def test_an_id_is_asked_for_as_the_directory_has_it(value: bytes) -> None:
    """Active Directory's are sixteen bytes of any kind."""
    kept = ldap._text(value)

    assert kept.isprintable()
    assert ldap._value(kept) == value


def test_an_empty_password_is_never_asked_about(directory: Ldap) -> None:
    assert ldap.is_password_of(directory, f"uid=lea,ou=people,{SUFFIX}", "")

    assert ldap.Backend().authenticate(None, username="lea", password="") is None


@pytest.mark.usefixtures("lea_closed")
def test_a_closed_entry_is_not_let_in() -> None:
    assert not is_in(sign_in("lea"))


def test_an_account_of_ours_is_not_taken_over_by_an_entry_of_its_name() -> None:
    ours = make_user("Lea", is_staff=True)

    assert not is_in(sign_in("lea"))

    ours.refresh_from_db()
    assert ours.directory == ""
    assert User.objects.filter(username__iexact="lea").count() == 1


def test_an_account_closed_here_stays_closed() -> None:
    sign_in("lea")
    User.objects.filter(username="lea").update(is_active=False)

    assert not is_in(sign_in("lea"))


def test_staff_is_who_is_in_a_staff_group_and_shows_a_second_factor() -> None:
    client = sign_in("max")

    user = User.objects.get(username="max")
    assert user.is_staff
    assert not user.is_superuser
    assert second_factor.is_required(user)
    assert client.get("/admin/").headers["Location"].startswith("/second-factor/enrol")


def test_without_a_mapping_nobody_becomes_staff(settings: Any) -> None:
    settings.CLOISTER_SIGN_IN = dataclasses.replace(
        settings.CLOISTER_SIGN_IN, staff_groups=frozenset()
    )

    sign_in("max")

    assert not User.objects.get(username="max").is_staff


def test_groups_follow_the_directory_and_those_of_ours_alone_stay(server: Slapd) -> None:
    client = sign_in("lea")
    lea = User.objects.get(username="lea")
    lea.groups.add(Group.objects.create(name="Night shift"))
    group = f"cn=radiology-staff,ou=groups,{SUFFIX}"
    change = "dn: {}\nchangetype: modify\nreplace: member\nmember: uid={},ou=people,{}\n"

    server.change(change.format(group, "max", SUFFIX))
    try:
        forget_check(client)
        assert is_in(client)
        assert [g.name for g in lea.groups.all()] == ["Night shift"]
    finally:
        server.change(change.format(group, "lea", SUFFIX))


def test_a_group_counts_by_its_dn_and_not_by_a_name_that_anybody_further_down_may_give_it(
    server: Slapd, settings: Any
) -> None:
    """Neither a group of that name below another one, nor a second name on any other one."""
    below = f"cn=it,cn=wards,ou=groups,{SUFFIX}"
    for dn, names in ((f"cn=wards,ou=groups,{SUFFIX}", "cn: wards\ncn: it"), (below, "cn: it")):
        server.change(
            f"dn: {dn}\nchangetype: add\nobjectClass: groupOfNames\n{names}\n"
            f"member: uid=lea,ou=people,{SUFFIX}\n"
        )
    try:
        sign_in("lea")
        assert not User.objects.get(username="lea").is_staff

        settings.CLOISTER_SIGN_IN = dataclasses.replace(
            settings.CLOISTER_SIGN_IN, staff_groups=frozenset({names_of.canonical(below.upper())})
        )
        sign_in("lea")
        assert User.objects.get(username="lea").is_staff
    finally:
        for dn in (below, f"cn=wards,ou=groups,{SUFFIX}"):
            server.change(f"dn: {dn}\nchangetype: delete\n")


def test_a_name_that_two_entries_or_an_entry_with_two_names_have_lets_nobody_in(
    server: Slapd,
) -> None:
    second = f"dn: cn=second,ou=people,{SUFFIX}"
    server.change(
        f"{second}\nchangetype: add\nobjectClass: inetOrgPerson\ncn: second\nsn: second\n"
        f"uid: second\nuid: lea\nuserPassword: {PASSWORD}\n"
    )
    try:
        assert not is_in(sign_in("lea"))
        assert not is_in(sign_in("second"))
    finally:
        server.change(f"{second}\nchangetype: delete\n")
    assert is_in(sign_in("lea"))


def forget_check(client: Client) -> None:
    """As if the directory's word were older than it may be."""
    session = client.session
    session[CHECKED_AT] = 0
    session.save()


def test_who_is_closed_there_is_out_at_the_next_check(server: Slapd, log: Log) -> None:
    client, elsewhere = sign_in("lea"), sign_in("lea")
    assert is_in(client)
    set_type(server, "lea", "closed")
    try:
        assert is_in(client)  # the word of a moment ago holds
        forget_check(client)
        assert not is_in(client)
    finally:
        set_type(server, "lea", "open")

    assert not is_in(elsewhere)
    assert not Session.objects.filter(user__username="lea").exists()
    assert log(Kind.SESSIONS_ENDED)[0]["by"] == "directory"


def test_without_the_directory_nobody_answers_for_its_accounts(
    directory: Ldap, settings: Any
) -> None:
    client = sign_in("lea")
    forget_check(client)

    gone = dataclasses.replace(directory, server="ldaps://127.0.0.1:9")
    settings.CLOISTER_SIGN_IN = SignIn(ldap=gone)
    assert client.get("/account").status_code == 503
    assert sign_in("lea").get("/account").status_code == 302

    settings.CLOISTER_SIGN_IN = SignIn()
    assert not is_in(client)


def test_accounts_of_ours_sign_in_without_the_directory(directory: Ldap, settings: Any) -> None:
    make_user("ben")
    settings.CLOISTER_SIGN_IN = SignIn(
        ldap=dataclasses.replace(directory, server="ldaps://127.0.0.1:9")
    )

    assert is_in(sign_in("ben", "correct horse battery"))


def test_plain_ldap_is_turned_into_tls_before_a_password_is_sent(
    directory: Ldap, server: Slapd
) -> None:
    with ldap.opened(dataclasses.replace(directory, server=server.ldap)) as opened:
        assert opened.find("uid", b"lea") is not None


def test_a_server_that_cannot_prove_who_it_is_gets_no_password(directory: Ldap) -> None:
    stranger = dataclasses.replace(directory, authority=None)

    with pytest.raises(ServicesUnavailable), ldap.opened(stranger):
        pass


def test_an_unknown_name_takes_as_many_requests_as_a_known_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    real = ldap.Connection._answers

    def counting(connection: ldap.Connection, last: Any) -> Any:
        asked.append(last.__name__)
        return real(connection, last)

    monkeypatch.setattr(ldap.Connection, "_answers", counting)
    work = []
    for name in ("lea", "nobody"):
        asked.clear()
        sign_in(name, "wrong")
        work.append(list(asked))

    assert work[0] == work[1] == ["BindResponse", "SearchResultDone", "BindResponse"]
