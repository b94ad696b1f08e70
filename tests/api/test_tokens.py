import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import IntegrityError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from retrieval import access, queue, tokens
from retrieval.errors import AccessDenied, LimitReached, ScopeMissing, TokenRefused
from retrieval.models import (
    ApiToken,
    AuditEvent,
    Collection,
    Image,
    Kind,
    Purpose,
    Role,
    Scope,
    ServiceAccount,
    TokenUse,
    User,
)
from retrieval.models.grant import Capability
from tests.api.conftest import ask, with_token
from tests.factories import grant, make_account, make_collection, make_image, make_token, make_user
from tests.web.conftest import Blocked, Log, Superuser

pytestmark = pytest.mark.usefixtures("encoder_answers")


def rows_of(table: str) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT collection_id FROM {table} ORDER BY 1")
        return [collection_id for (collection_id,) in cursor.fetchall()]


def test_a_token_has_a_prefix_and_a_checksum_that_scanners_know(
    account: ServiceAccount, collection: Collection
) -> None:
    _, text = make_token(account, collection)

    assert re.fullmatch(r"cloister_[0-9]+_[0-9A-Za-z]{49}", text)
    assert tokens.is_intact(text)
    wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
    assert not tokens.is_intact(wrong)


def test_a_token_is_nowhere_in_the_database(
    account: ServiceAccount, collection: Collection, superuser: Superuser
) -> None:
    token, text = make_token(account, collection)
    secret = text.split("_")[2]

    rows = superuser.execute("SELECT row_to_json(t)::text FROM retrieval_apitoken t").fetchall()
    entries = superuser.execute("SELECT details FROM retrieval_auditevent").fetchall()
    assert not any(secret in str(row) for row in rows + entries)
    assert token.digest not in text


def test_a_hash_that_somebody_writes_into_the_table_lets_nobody_in(
    account: ServiceAccount, collection: Collection, superuser: Superuser
) -> None:
    """The hash is keyed: who may write rows, but has no key file, cannot make a token."""
    token, text = make_token(account, collection)
    body = f"cloister_{token.pk}_{'A' * 43}"
    forged = body + tokens._checksum(body)
    superuser.execute(
        "UPDATE retrieval_apitoken SET digest = %s", [hashlib.sha256(forged.encode()).hexdigest()]
    )

    assert ask(with_token(forged)).status_code == 401
    assert ask(with_token(text)).status_code == 401


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda t: tokens.revoke(t, revoked_by=t.account), "revoked"),
        (lambda t: ApiToken.objects.update(expires_at=timezone.now()), "expired"),
        (lambda t: User.objects.filter(pk=t.account_id).update(is_active=False), "closed account"),
        (
            lambda t: User.objects.filter(service_accounts=t.account_id).update(is_active=False),
            "without a person responsible",
        ),
    ],
    ids=["revoked", "expired", "account closed", "responsible person gone"],
)
def test_a_token_ends_at_the_next_request(
    end: Callable[[ApiToken], object],
    reason: str,
    account: ServiceAccount,
    collection: Collection,
    log: Log,
) -> None:
    token, text = make_token(account, collection)
    assert ask(with_token(text)).status_code == 200

    end(token)

    assert ask(with_token(text)).status_code == 401
    assert reason in log(Kind.TOKEN_REFUSED)[-1]["reason"]


@pytest.mark.parametrize(
    "end",
    [
        lambda t: tokens.revoke(t, revoked_by=t.account),
        lambda t: ApiToken.objects.update(expires_at=timezone.now()),
        lambda t: User.objects.filter(service_accounts=t.account_id).update(is_active=False),
        lambda t: setattr(t.account, "token", None),
    ],
    ids=["revoked", "expired", "responsible person gone", "no token"],
)
def test_without_a_live_token_the_database_shows_a_program_nothing(
    end: Callable[[ApiToken], object], account: ServiceAccount, collection: Collection, image: Image
) -> None:
    token, text = make_token(account, collection)
    actor = tokens.let_in(text)
    with access.acting_as(actor, Purpose.TREATMENT):
        assert rows_of("retrieval_image") == [collection.pk]

    token.account = actor  # the bound one
    end(token)

    with access.acting_as(actor, Purpose.TREATMENT):
        assert rows_of("retrieval_image") == []
        assert rows_of("retrieval_embedding") == []


def test_a_token_narrows_collections_in_both_locks(
    account: ServiceAccount, collection: Collection, image: Image
) -> None:
    other = make_collection()
    grant(account, other, Role.CURATOR)
    make_image(other, [1.0, 0.0, 0.0])
    actor = tokens.let_in(make_token(account, other)[1])

    assert access.collections_where(actor, Purpose.TREATMENT, Capability.SEARCH) == [other]
    with access.acting_as(actor, Purpose.TREATMENT):
        assert rows_of("retrieval_image") == [other.pk]
        assert rows_of("retrieval_embedding") == [other.pk]


def test_a_token_never_widens_what_its_account_was_granted(
    account: ServiceAccount, collection: Collection
) -> None:
    foreign = make_collection()
    make_image(foreign, [1.0, 0.0, 0.0])
    text = make_token(account, foreign, purposes=[Purpose.TREATMENT])[1]
    actor = tokens.let_in(text)

    assert access.collections_where(actor, Purpose.TREATMENT, Capability.VIEW) == []
    with access.acting_as(actor, Purpose.TREATMENT):
        assert rows_of("retrieval_image") == []
    assert ask(with_token(text)).status_code == 404


def test_a_token_narrows_purposes_in_both_locks(
    account: ServiceAccount, collection: Collection, image: Image
) -> None:
    text = make_token(account, collection, purposes=[Purpose.TREATMENT])[1]
    actor = tokens.let_in(text)

    assert access.collections_where(actor, Purpose.RESEARCH, Capability.VIEW) == []
    with access.acting_as(actor, Purpose.RESEARCH):
        assert rows_of("retrieval_image") == []
    assert ask(with_token(text, {"Purpose-Of-Use": "HRESCH"})).status_code == 403


def test_a_token_narrows_scopes_in_both_locks(
    account: ServiceAccount, collection: Collection, image: Image
) -> None:
    actor = tokens.let_in(make_token(account, collection, scopes=[Scope.STATUS])[1])

    assert access.collections_where(actor, Purpose.TREATMENT, Capability.SEARCH) == []
    assert access.collections_where(actor, Purpose.TREATMENT, Capability.INGEST) == []
    with access.acting_as(actor, Purpose.TREATMENT):
        assert rows_of("retrieval_image") == [collection.pk]
        assert rows_of("retrieval_embedding") == []
        with connection.cursor() as cursor:
            cursor.execute("SELECT cloister_granted('{curator,owner}')")
            assert cursor.fetchone() == ([],)


def test_no_program_reviews(account: ServiceAccount, collection: Collection) -> None:
    grant(account, collection, Role.OWNER)
    actor = tokens.let_in(make_token(account, collection)[1])

    assert access.collections_where(actor, Purpose.TREATMENT, Capability.REVIEW) == []
    with access.acting_as(actor, Purpose.TREATMENT), connection.cursor() as cursor:
        cursor.execute("SELECT cloister_granted('{reviewer,owner}')")
        assert cursor.fetchone() == ([],)


@pytest.mark.parametrize(
    "change", [{"password": "argon2$x"}, {"is_superuser": True}, {"last_login": timezone.now()}]
)
def test_a_service_account_never_signs_in(account: ServiceAccount, change: dict[str, Any]) -> None:
    assert not account.has_usable_password()
    with pytest.raises(IntegrityError):
        User.objects.filter(pk=account.pk).update(**change)


def test_a_program_answers_for_no_other_one(account: ServiceAccount) -> None:
    with pytest.raises(AccessDenied):
        make_account(responsible=account)


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_at": timezone.now() + timedelta(days=367)},
        {"expires_at": None},
        {"scopes": []},
        {"purposes": []},
        {"per_minute": 0},
        {"queries_per_day": 100_001},
    ],
    ids=["too long", "without end", "no scope", "no purpose", "no rate", "no budget"],
)
def test_what_no_token_may_be_is_refused_by_the_database(
    fields: dict[str, Any], account: ServiceAccount, collection: Collection
) -> None:
    with pytest.raises((IntegrityError, AttributeError)):
        make_token(account, collection, **fields)


def test_the_web_role_makes_no_token_out_of_another(
    account: ServiceAccount, collection: Collection
) -> None:
    make_token(account, collection)
    for change in ("scopes = '{admin:tokens}'", "digest = 'x'", "collections = '{1,2,3}'"):
        with connection.cursor() as cursor, pytest.raises(Exception, match="permission denied"):
            cursor.execute(f"UPDATE retrieval_apitoken SET {change}")


def test_a_rotated_token_holds_for_the_overlap_and_its_successor_shares_its_limits(
    account: ServiceAccount, collection: Collection
) -> None:
    first, text = make_token(account, collection, queries_per_day=2)
    assert ask(with_token(text)).status_code == 200

    second, successor = tokens.rotate(first, overlap=timedelta(minutes=10), rotated_by=account)

    assert ask(with_token(text)).status_code == 200
    assert ask(with_token(successor)).status_code == 429
    assert (second.scopes, second.collections) == (first.scopes, first.collections)
    first.refresh_from_db()
    assert first.expires_at <= timezone.now() + timedelta(minutes=10)
    ApiToken.objects.filter(pk=first.pk).update(expires_at=timezone.now())
    assert ask(with_token(text)).status_code == 401
    with pytest.raises(TokenRefused):
        tokens.rotate(first, overlap=timedelta(0), rotated_by=account)


def test_what_a_leaked_token_rotated_itself_into_is_revoked_with_it(
    account: ServiceAccount, collection: Collection, log: Log
) -> None:
    leaked, text = make_token(account, collection)
    assert account.responsible is not None
    by_person, theirs = tokens.rotate(
        leaked, overlap=timedelta(days=1), rotated_by=account.responsible
    )
    for _ in range(2):
        answer = with_token(text).post(
            "/api/v1/token/rotate", {"overlap_s": 86400}, content_type="application/json"
        )
        text = answer.json()["text"]
    assert with_token(text).get("/api/v1/token").status_code == 200

    tokens.revoke(leaked, revoked_by=make_user())

    assert with_token(text).get("/api/v1/token").status_code == 401
    assert with_token(theirs).get("/api/v1/token").status_code == 200
    revoked = [entry["issued"] for entry in log(Kind.TOKEN_REVOKED)]
    assert len(revoked) == 3
    assert by_person.pk not in revoked


def test_a_tokens_rate_is_limited_and_told_when_to_come_back(
    account: ServiceAccount, collection: Collection, log: Log
) -> None:
    token, text = make_token(account, collection, per_minute=3)
    body = f"cloister_{token.pk}_{'A' * 43}"
    # Who makes one up for its number takes nothing away from it.
    assert with_token(body + tokens._checksum(body)).get("/api/v1/token").status_code == 401
    answers = [with_token(text).get("/api/v1/token") for _ in range(4)]

    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 21
    assert log(Kind.TOKEN_LIMITED)[0]["limit"] == "per_minute"
    TokenUse.objects.update(due_at=timezone.now())
    assert with_token(text).get("/api/v1/token").status_code == 200


def test_a_tokens_queries_of_a_day_are_limited_and_come_back_the_next(
    account: ServiceAccount, collection: Collection, log: Log
) -> None:
    _, text = make_token(account, collection, queries_per_day=1)

    assert [ask(with_token(text)).status_code for _ in range(2)] == [200, 429]
    assert log(Kind.TOKEN_LIMITED)[0]["limit"] == "queries_per_day"
    assert with_token(text).get("/api/v1/token").json()["queries_left"] == 0
    TokenUse.objects.update(day=timezone.now().date() - timedelta(days=1))
    assert ask(with_token(text)).status_code == 200


def test_limits_hold_where_nothing_counts(account: ServiceAccount, collection: Collection) -> None:
    """A series without its row of counts has no room, rather than no limit."""
    _, text = make_token(account, collection)
    connection.cursor().execute("UPDATE retrieval_tokenuse SET series = gen_random_uuid()")

    with pytest.raises(LimitReached):
        tokens.let_in(text)


def test_every_use_of_a_token_names_it_in_the_log(
    account: ServiceAccount, collection: Collection, image: Image, log: Log
) -> None:
    token, text = make_token(account, collection)
    ask(with_token(text))
    with_token(text).get("/api/v1/collections")

    assert log(Kind.SEARCH_SERVED)[-1]["token"] == token.pk
    assert log(Kind.PAGE_SERVED)[-1] == {
        "route": "api:collections",
        "status": 200,
        "token": token.pk,
    }


def test_issuing_rotating_and_revoking_are_on_the_log(
    account: ServiceAccount, collection: Collection, log: Log
) -> None:
    token, _ = make_token(account, collection)
    second, _ = tokens.rotate(token, overlap=timedelta(0), rotated_by=account)
    tokens.revoke(second, revoked_by=account)
    tokens.revoke(second, revoked_by=account)

    assert [e["issued"] for e in log(Kind.TOKEN_ISSUED)] == [token.pk]
    assert [(e["predecessor"], e["issued"]) for e in log(Kind.TOKEN_ROTATED)] == [
        (token.pk, second.pk)
    ]
    assert [e["issued"] for e in log(Kind.TOKEN_REVOKED)] == [second.pk]


def test_a_scope_that_is_missing_is_refused_on_the_log(
    account: ServiceAccount, collection: Collection, log: Log
) -> None:
    token, text = make_token(account, collection, scopes=[Scope.STATUS])

    assert ask(with_token(text)).status_code == 403
    assert log(Kind.TOKEN_REFUSED) == [
        {"reason": "scope", "route": "api:search_images", "token": token.pk}
    ]
    actor = tokens.let_in(text)
    with pytest.raises(ScopeMissing):
        tokens.require(actor, Scope.INGEST, Purpose.TREATMENT, route="")


def test_what_is_no_token_fills_no_log_and_an_unknown_one_is_on_it(
    program: Client, account: ServiceAccount, collection: Collection, log: Log
) -> None:
    token, text = make_token(account, collection)
    for nonsense in ("", "x", text[:-1], text + "A", text.upper(), "cloister_0_" + "A" * 49):
        assert ask(with_token(nonsense)).status_code == 401
    assert log(Kind.TOKEN_REFUSED) == []

    queue._broker().flushdb()
    body = f"cloister_{token.pk}_{'A' * 43}"
    invented = with_token(body + tokens._checksum(body))
    assert [invented.get("/api/v1/token").status_code for _ in range(9)] == [401] * 9
    assert log(Kind.TOKEN_REFUSED) == [
        {"token": token.pk, "reason": "unknown", "count": count} for count in (1, 2, 4, 8)
    ]


def test_whoever_invents_tokens_all_the_time_is_not_listened_to_and_others_there_are(
    program: Client, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    queue._broker().flushdb()
    monkeypatch.setattr(tokens, "STRANGERS_PER_MINUTE", 2)
    body = f"cloister_9_{'A' * 43}"
    invented = with_token(body + tokens._checksum(body))

    told = [invented.get("/api/v1/token").status_code for _ in range(4)]

    assert told == [401, 401, 429, 429]
    assert [entry["count"] for entry in log(Kind.TOKEN_REFUSED)] == [1, 2, 4]
    assert program.get("/api/v1/token").status_code == 200


def test_a_refusal_that_is_only_counted_is_none_while_the_log_is_closed(
    log_blocked: Blocked, program: Client
) -> None:
    body = f"cloister_9_{'A' * 43}"
    invented = with_token(body + tokens._checksum(body))
    with log_blocked():
        told = {invented.get("/api/v1/token").status_code for _ in range(3)}
    assert told == {503}


def test_a_session_opens_nothing_here(image: Image, collection: Collection) -> None:
    user = make_user()
    grant(user, collection)
    browser = Client()
    browser.force_login(user)

    assert browser.get("/api/v1/collections").status_code == 401


def test_beside_a_token_no_session_is_read_and_none_is_ended(
    account: ServiceAccount, collection: Collection
) -> None:
    """Half of an administrator's sign-in sends a page on to its second factor, the API nowhere."""
    administrator = make_user(is_staff=True, is_superuser=True)
    browser = Client(raise_request_exception=False)
    browser.force_login(administrator)
    _, text = make_token(account, collection)
    beside = {"Authorization": f"Bearer {text}"}

    assert browser.get("/", headers=beside).status_code == 302
    with CaptureQueriesContext(connection) as asked:
        answer = browser.get("/api/v1/collections", headers=beside)
    assert (answer.status_code, len(answer.json()["items"])) == (200, 1)
    assert not [q for q in asked.captured_queries if "retrieval_session" in q["sql"]]
    assert answer.cookies == {}
    assert browser.get("/api/v1/collections").status_code == 401
    assert browser.get("/").headers["Location"].startswith("/second-factor")


def test_a_token_opens_no_page_of_the_staff(program: Client) -> None:
    assert program.get("/").status_code == 302
    assert program.get("/admin/").status_code == 302


def test_without_the_log_no_token_is_let_in_or_refused(
    program: Client, account: ServiceAccount, collection: Collection, log_blocked: Blocked
) -> None:
    limited = with_token(make_token(account, collection, scopes=[Scope.INGEST])[1])
    with log_blocked():
        assert program.get("/api/v1/collections").status_code == 503
        assert ask(limited).status_code == 503


def test_a_program_reads_its_own_entries_and_no_others(
    account: ServiceAccount, collection: Collection
) -> None:
    mine, text = make_token(account, collection)
    _, other = make_token(account, collection)
    ask(with_token(text))
    ask(with_token(other))
    actor = tokens.let_in(text)

    with access.acting_as(actor, Purpose.TREATMENT):
        entries = list(AuditEvent.objects.all())
    assert [(e.kind, e.actor_id) for e in entries] == [(Kind.SEARCH_SERVED, account.pk)]
    assert f'"token":{mine.pk}' in entries[0].details


def test_an_administrators_right_to_the_log_is_not_for_programs(
    account: ServiceAccount, collection: Collection
) -> None:
    ask(with_token(make_token(account, collection)[1]))
    account.user_permissions.add(Permission.objects.get(codename="view_auditevent"))
    actor = tokens.let_in(make_token(account, collection)[1])

    with access.acting_as(actor, Purpose.TREATMENT):
        assert not AuditEvent.objects.exists()
