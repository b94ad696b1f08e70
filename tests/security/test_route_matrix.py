"""Route × method × who asks × what for, against a table that somebody has read.

Routes come from the URL configuration: one that `routes/` does not know fails, and so does one
whose answer has changed. What no table may allow is asked of every answer besides. After a change
that is meant, `ROUTE_MATRIX=write` writes the table anew: read the difference.
"""

import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from django.apps import apps
from django.db.models import IntegerField
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from appliance.web import middleware
from retrieval import access, break_glass, holds, kept_queries, tokens
from retrieval.models import HoldReason, Purpose, Role, Scope, Subject, User
from tests.factories import (
    enrol,
    grant,
    make_account,
    make_collection,
    make_encoder,
    make_image,
    make_token,
    make_user,
    operator,
)
from tests.web.conftest import Superuser, encoder_answers, jpeg, signed_in

__all__ = ["encoder_answers"]

pytestmark = pytest.mark.usefixtures("encoder_answers")

TABLES: Final = Path(__file__).parent / "routes"
SESSIONS: Final = (
    "stranger",
    "ended",
    "closed",
    "half",
    "clerk",
    "reader",
    "reviewer",
    "admin",
    "keeper",
)
"""Nobody; whose session is over; whose account is closed; who has shown a password alone; who was
granted nothing; who may search; who may do all in one collection for treatment; an administrator
without a grant; and one who may do all in that collection for administration."""
STAFF: Final = ("admin", "keeper")
STRANGERS: Final = ("stranger", "ended", "closed")
TOKENS: Final = ("no token", "valid", "expired", "revoked", "scope", "purpose", "foreign", "cookie")
OBJECTS: Final = ("own", "foreign", "missing", "erased")
OTHER_METHODS: Final = ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
LAST: Final = ("end_other_sessions", "admin:logout", "admin_sign_out", "sign_out")
"""They end sessions, which the others still need."""

FORMS: Final[dict[str, dict[str, Any]]] = {
    "search": {"words": "anything"},
    "api:search_images": {"words": "anything"},
    "api:rotate": {"overlap_s": -1},
}
PUBLIC: Final = {
    *middleware.UNAUDITED,
    "admin:login",
    "admin_sign_in",
}
"""What a stranger is answered: nothing of it is data (docs/audit.md), or it leads to signing in."""
SERVED: Final = range(200, 300)


@dataclass(frozen=True)
class Route:
    name: str
    pattern: str

    @property
    def is_api(self) -> bool:
        return self.pattern.startswith("api/")

    @property
    def part(self) -> str:
        found = self.pattern.partition("/")[0]
        return found if found in ("admin", "api") else "pages"

    @property
    def takes_image(self) -> bool:
        return "image_id" in self.pattern or "retrieval/image/<path" in self.pattern


@dataclass(frozen=True)
class World:
    """Things by the part of a pattern that names them, one for each of OBJECTS; and who asks."""

    images: dict[str, uuid.UUID]
    rows: dict[str, object]
    clients: dict[str, Client]
    tokens: dict[str, dict[str, str]]

    def address(self, route: Route, which: str) -> str:
        url = route.pattern
        model = re.search(r"(?:retrieval|auth)/(\w+)/", url)
        image_id = self.images[which]
        row = self.rows.get(model[1] if model else "", 1)
        if which != "own":
            row = uuid.uuid4() if isinstance(row, uuid.UUID) else 999_999
        if route.takes_image:
            row = image_id
        url = re.sub(r"\^\(\?P<app_label>[^)]*\)/\$", "retrieval/", url)
        url = re.sub(r"\(\?P<url>\.\*\)\$", "nowhere", url)
        url = re.sub(r"<uuid(?:str)?:image_id>", str(image_id), url)
        url = url.replace("<path:content_type_id>", "1").replace("<int:number>", "1")
        broken = self.rows["breakglass"] if which == "own" else uuid.uuid4()
        url = url.replace("<uuid:broken_id>", str(broken))
        if "<int:collection>" in url and which == "own":
            row = self.rows["collection"]
        if "<uuidstr:" in url:
            row = self.rows["importbatch"] if which == "own" else uuid.uuid4()
        url = re.sub(r"<(?:path:|uuid:|uuidstr:|int:)?\w+>", str(row), url)
        return f"/{url}"


def routes(resolver: Any = None, namespace: str = "", before: str = "") -> Iterator[Route]:
    for found in (resolver or get_resolver()).url_patterns:
        pattern = before + str(found.pattern)
        if isinstance(found, URLResolver):
            inner = f"{found.namespace}:" if found.namespace else ""
            yield from routes(found, namespace + inner, pattern)
        elif isinstance(found, URLPattern):
            yield Route(namespace + (found.name or ""), pattern)


@pytest.fixture
def world(db: None, superuser: Superuser, settings: Any) -> World:
    make_encoder()
    own = make_collection("own ward", keep_queries_days=1)
    foreign = make_collection("foreign ward")
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        subject = Subject.objects.create(collection=foreign, pseudonym="foreign-subject")
    images = {
        "own": make_image(own, [1, 0, 0], name="own.jpg", preview=jpeg()),
        "foreign": make_image(
            foreign, [1, 0, 0], name="foreign-name.jpg", preview=jpeg(), subject=subject
        ),
        "erased": make_image(own, [1, 0, 0], name="erased.jpg", preview=jpeg()),
    }
    superuser.execute("DELETE FROM retrieval_image WHERE id = %s", [images["erased"].pk])
    people = {name: make_user(name) for name in ("closed", "half", "clerk", "reader", "ended")}
    people["reviewer"] = make_user("reviewer")
    for name in STAFF:
        people[name] = make_user(name, is_staff=True, is_superuser=True)
    grant(people["keeper"], own, Role.OWNER, Purpose.ADMINISTRATION)
    for name in ("closed", "ended", "reader"):
        grant(people[name], own)
    for name in ("half", "reviewer"):
        grant(people[name], own, Role.OWNER)
    clients = {name: _client(name, people.get(name)) for name in SESSIONS}
    people["closed"].is_active = False
    people["closed"].save()
    clients["ended"].session.flush()
    physician = make_user("physician")
    enrol(physician)
    broken = break_glass.break_glass(
        own.name, reason="The patient does not answer.", actor=physician
    )
    break_glass.close(broken.pk, actor=physician)
    holds.place(make_user("held"), HoldReason.PASSWORD, by=operator())
    kept_queries.keep(
        1,
        words="kept words",
        images=[b"kept"],
        searched=[own],
        actor=people["reader"],
        purpose=Purpose.TREATMENT,
    )
    (kept,) = superuser.execute("SELECT id FROM retrieval_keptquery").fetchone() or (None,)
    account = make_account(responsible=people["reviewer"])
    grant(account, own, Role.OWNER, Purpose.TREATMENT)
    grant(account, foreign, Role.OWNER, Purpose.TREATMENT)
    grants = superuser.execute("SELECT min(id) FROM retrieval_grant").fetchone() or (None,)
    told = _tokens(account, own, foreign, superuser)
    rows = _first_rows(superuser) | {
        "breakglass": broken.pk,
        "keptquery": kept,
        "collection": own.pk,
        "grant": grants[0],
        "importbatch": images["own"].batch_id,
        "user": make_user("somebody").pk,
        "certificate": uuid.uuid4(),
    }
    return World(
        {which: image.pk for which, image in images.items()} | {"missing": uuid.uuid4()},
        rows,
        clients,
        told,
    )


def _client(name: str, user: User | None) -> Client:
    if user is None:
        return Client(raise_request_exception=False)
    if name != "half":
        return signed_in(user)
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def _first_rows(superuser: Superuser) -> dict[str, Any]:
    """The first id of each table that counts its rows, whatever tests ran before."""
    first: dict[str, Any] = {}
    for model in apps.get_app_config("retrieval").get_models():
        meta = model._meta
        if isinstance(meta.pk, IntegerField):
            query = f'SELECT min("{meta.pk.column}") FROM "{meta.db_table}"'
            first[meta.model_name or ""] = (superuser.execute(query).fetchone() or (None,))[0] or 1
    return first


def _tokens(
    account: Any, own: Any, foreign: Any, superuser: Superuser
) -> dict[str, dict[str, str]]:
    texts = {
        "valid": make_token(account, own, per_minute=600)[1],
        "scope": make_token(account, own, scopes=[Scope.INGEST], per_minute=600)[1],
        "purpose": make_token(account, own, per_minute=600)[1],
        "foreign": make_token(account, foreign, per_minute=600)[1],
    }
    expired, texts["expired"] = make_token(account, own, per_minute=600)
    past = timezone.now() - timedelta(seconds=1)
    superuser.execute(
        "UPDATE retrieval_apitoken SET expires_at = %s WHERE id = %s", [past, expired.pk]
    )
    revoked, texts["revoked"] = make_token(account, own, per_minute=600)
    tokens.revoke(revoked, revoked_by=operator())
    headers = {name: {"Authorization": f"Bearer {text}"} for name, text in texts.items()}
    headers["purpose"]["Purpose-Of-Use"] = Purpose.RESEARCH
    return headers | {"no token": {}, "cookie": {}}


def ask(world: World, route: Route, method: str, who: str, which: str) -> Any:
    url, form = world.address(route, which), FORMS.get(route.name, {})
    client, headers = world.clients.get(who), world.tokens.get(who, {})
    if client is None:
        client = world.clients["reviewer"] if who == "cookie" else world.clients["stranger"]
    if route.is_api:
        return client.generic(
            method,
            url,
            json.dumps(form) if method == "POST" else "",
            content_type="application/json",
            headers=headers,
        )
    if method == "POST":
        return client.post(url, form, headers=headers)
    return client.generic(method, url, headers=headers)


def outcome(answer: Any) -> str:
    """The status, and of a redirection where to: to sign in, to a second factor, or on."""
    if answer.status_code not in (301, 302):
        return str(answer.status_code)
    to = answer["Location"]
    if to.startswith(("/sign-in", "/admin/login")):
        return "sign in"
    return "factor" if to.startswith("/second-factor") else "on"


def body(answer: Any) -> bytes:
    content = b"".join(answer) if answer.streaming else answer.content
    return re.sub(rb'name="csrfmiddlewaretoken" value="[^"]*"', b"", content)


def who_asks(route: Route, method: str, which: str) -> tuple[str, ...]:
    if route.is_api:
        return TOKENS
    if which != "own":
        return STAFF if route.part == "admin" else ("clerk", "reader", "reviewer")
    # Without a session, a POST goes the way of a GET: one stranger will do.
    return SESSIONS if method == "GET" else ("stranger", *SESSIONS[3:])


def objects(route: Route) -> tuple[str, ...]:
    if route.takes_image:
        return OBJECTS
    has_id = re.search(r"<(path:object|uuid|uuidstr|int|id)", route.pattern)
    return ("own", "missing") if has_id else ("own",)


@dataclass(frozen=True)
class Asked:
    route: Route
    method: str
    which: str
    who: str
    answer: Any
    body: bytes

    @property
    def is_served(self) -> bool:
        return self.answer.status_code in SERVED


def ask_all(world: World, part: str) -> list[Asked]:
    """Every route of a part, asked by everybody for everything."""
    found = [route for route in routes() if route.part == part]
    found.sort(key=lambda route: LAST.index(route.name) if route.name in LAST else -1)
    answers = []
    for route in found:
        for method in ("GET", "POST"):
            for which in objects(route):
                for who in who_asks(route, method, which):
                    answer = ask(world, route, method, who, which)
                    content = without_ids(body(answer), world)
                    answers.append(Asked(route, method, which, who, answer, content))
    return answers


def without_ids(content: bytes, world: World) -> bytes:
    for image_id in world.images.values():
        content = content.replace(str(image_id).encode(), b"ID")
    return content


def lines(asked: list[Asked]) -> list[str]:
    """The table: one line for each route, method and object, and who gets which answer."""
    cells: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for one in asked:
        key = (one.route.pattern or "/", one.route.name or "-", one.method, one.which)
        cells.setdefault(key, {}).setdefault(outcome(one.answer), []).append(one.who)
    return sorted(
        "\t".join([*key, "; ".join(f"{what}: {', '.join(who)}" for what, who in found.items())])
        for key, found in cells.items()
    )


PARTS: Final = ("admin", "api", "pages")


def read(part: str) -> list[str]:
    return (TABLES / f"{part}.tsv").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("part", PARTS)
def test_every_route_answers_everybody_as_the_table_says(part: str, world: World) -> None:
    asked = ask_all(world, part)
    if os.environ.get("ROUTE_MATRIX") == "write":
        (TABLES / f"{part}.tsv").write_text("\n".join(lines(asked)) + "\n", encoding="utf-8")
    assert lines(asked) == read(part)

    # What no table may allow.
    for one in asked:
        told = (one.route, one.method, one.which, one.who, one.answer.status_code)
        assert one.answer.status_code < 500, told
        check_strangers(one, told)
        check_images(one, told)
        check_words(one, told)
    check_that_nothing_tells_foreign_from_missing(asked)


def test_the_tables_know_no_route_that_is_gone() -> None:
    known = {line.split("\t")[0] for part in PARTS for line in read(part)}
    assert known == {route.pattern or "/" for route in routes()}


def check_strangers(one: Asked, told: object) -> None:
    """Without a session, a second factor or a token that holds, nothing is served."""
    if not one.is_served or one.route.name in PUBLIC:
        return
    if one.route.is_api:
        assert one.who not in ("no token", "expired", "revoked", "cookie"), told
    else:
        assert one.who not in STRANGERS, told
        assert one.who != "half" or one.route.name in ("enrol", "change_password"), told


def check_images(one: Asked, told: object) -> None:
    """An image is served to those with a grant there, and to a token with all it needs."""
    if one.route.takes_image and one.is_served:
        theirs = "foreign" if one.who == "foreign" else "own"
        assert one.which == theirs, told
        assert one.who in ("reader", "reviewer", "keeper", "valid", "foreign"), told


def check_words(one: Asked, told: object) -> None:
    """No name, pseudonym or collection of what one may not see is in any answer."""
    assert b"erased.jpg" not in one.body, told
    if one.who != "foreign":
        for secret in (b"foreign-name.jpg", b"foreign-subject"):
            assert secret not in one.body, told
    if one.who not in (*STAFF, "foreign"):
        assert b"foreign ward" not in one.body, told
    if one.who not in ("reviewer", "keeper", "valid"):
        assert b"own.jpg" not in one.body, told


def check_that_nothing_tells_foreign_from_missing(asked: list[Asked]) -> None:
    alike: dict[tuple[object, ...], dict[str, object]] = {}
    for one in asked:
        if one.route.takes_image and one.which != "own" and one.who != "foreign":
            to = one.answer.headers.get("Location", "")
            answer = (one.answer.status_code, one.body, len(to))
            alike.setdefault((one.route, one.method, one.who), {})[one.which] = answer
    for key, answers in alike.items():
        assert answers["foreign"] == answers["missing"] == answers["erased"], key


def test_no_other_method_serves_what_get_and_post_do_not(world: World) -> None:
    for route in routes():
        if route.name in PUBLIC:
            continue
        for who in ("no token",) if route.is_api else ("clerk",):
            first = ask(world, route, "GET", who, "own")
            # The administration is one door, tried at each route by the table above.
            for method in OTHER_METHODS if route.part != "admin" else ("PUT", "OPTIONS"):
                answer = ask(world, route, method, who, "own")
                assert answer.status_code < 500, (route, method, who)
                if answer.status_code in SERVED and first.status_code not in SERVED:
                    # Which methods there are is all that is told.
                    assert method == "OPTIONS", (route, method, who)
                    assert body(answer) == b"", (route, method, who)
