"""No audit, no answer: every route, while the log is broken in each way a real one breaks."""

import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponseBase
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from appliance import env
from appliance.web import middleware
from retrieval import break_glass
from retrieval.models import Image, Kind, Purpose, Role, State, User
from tests.factories import (
    enrol,
    grant,
    make_account,
    make_collection,
    make_encoder,
    make_image,
    make_token,
    make_user,
)
from tests.web.conftest import Superuser, encoder_answers, jpeg, log, signed_in

__all__ = ["encoder_answers", "log"]

pytestmark = pytest.mark.usefixtures("encoder_answers")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "audit.md"
MOST_S = 20
"""Five seconds is what the appliance keeps to (test_audit.py); here twenty ask at once."""


@dataclass(frozen=True)
class Request:
    route: str
    method: str
    url: str
    form: dict[str, str]
    token: str = ""


def routes(
    resolver: Any = None, namespace: str = "", before: str = ""
) -> Iterator[tuple[str, str]]:
    """Every named route and its pattern, from the URL configuration itself."""
    for found in (resolver or get_resolver()).url_patterns:
        route = before + str(found.pattern)
        if isinstance(found, URLResolver):
            inner = f"{found.namespace}:" if found.namespace else ""
            yield from routes(found, namespace + inner, route)
        elif isinstance(found, URLPattern) and found.name:
            yield namespace + found.name, route


def address(route: str, image: Image) -> str | None:
    """A route with the ids of things that are there, or None where it takes none of ours."""
    url = re.sub(r"<uuid(?:str)?:\w+>", str(image.pk), route)
    url = re.sub(r"<path:object_id>", str(image.pk) if "image/" in url else "1", url)
    url = re.sub(r"<int:\w+>", "1", url)
    return None if re.search(r"[<(^]", url) else f"/{url}"


@pytest.fixture
def image(db: None) -> Image:
    make_encoder()
    collection = make_collection("ward photographs")
    return make_image(collection, [1.0, 0.0, 0.0], name="meier.jpg", preview=jpeg())


@pytest.fixture
def officer(image: Image) -> User:
    """Somebody who may see everything: what is not shown is not shown because of the log."""
    officer = make_user("officer", is_staff=True, is_superuser=True)
    grant(officer, image.collection, Role.OWNER, Purpose.TREATMENT, Purpose.ADMINISTRATION)
    return officer


@pytest.fixture
def browser(officer: User) -> Client:
    return signed_in(officer)


@pytest.fixture
def requests(browser: Client, officer: User, image: Image) -> list[Request]:
    page = browser.post("/", {"words": "anything"}).content.decode()
    (ticket,) = re.findall(r'src="(/images/[^"]*/thumbnail\?ticket=[^"]*)"', page)
    listed = browser.get("/admin/retrieval/image/").content.decode()
    (listed_ticket,) = re.findall(r'src="(/admin/[^"]*/thumbnail/?\?ticket=[^"]*)"', listed)
    found = [
        Request(name, "GET", url, {})
        for name, route in routes()
        if (url := address(route, image)) is not None and not url.startswith("/api/")
    ]
    return [
        *found,
        Request("thumbnail", "GET", ticket, {}),
        Request("admin:retrieval_image_thumbnail", "GET", listed_ticket, {}),
        Request("search", "POST", "/", {"words": "anything"}),
        *by_token(officer, image),
        Request("purpose", "POST", "/purpose", {"purpose": "TREAT"}),
        Request("verify", "POST", "/admin/retrieval/auditevent/verify/", {}),
        Request("sign in", "POST", "/sign-in", {"username": "x", "password": "y"}),
        *decisions(officer, image),
    ]


def decisions(officer: User, image: Image) -> list[Request]:
    """What changes something: on an image in review, and where the glass was broken."""
    held = make_image(image.collection, state=State.REVIEW, preview=jpeg(), render=1)
    physician = make_user()
    enrol(physician)
    broken = break_glass.break_glass(
        image.collection.name, reason="The patient does not answer.", actor=physician
    )
    own = break_glass.break_glass(
        image.collection.name, reason="The patient does not answer.", actor=officer
    )
    emergency = {
        "collection": image.collection.name,
        "reason": "The patient does not answer.",
        "password": "correct horse battery",
    }
    box = {"render": "1", "box": "face 1 1 9 9"}
    release = {"decision": "release", "render": "1"}
    chosen = {"action": "reject", "_selected_action": str(held.pk)}
    verdict = {"verdict": "justified"}
    return [
        Request("review_boxes", "POST", f"/review/{held.pk}/boxes", box),
        Request("review_decide", "POST", f"/review/{held.pk}/decide", release),
        Request("review_decide", "POST", f"/review/{held.pk}/decide", {"decision": "reject"}),
        Request("admin decide", "POST", f"/admin/retrieval/image/{held.pk}/decide/", release),
        Request("break_glass", "POST", "/break-glass/", emergency),
        Request("close_glass", "POST", f"/break-glass/{own.pk}/close", {}),
        Request("glass", "POST", f"/admin/retrieval/breakglass/{broken.pk}/review/", verdict),
        Request("admin reject", "POST", "/admin/retrieval/image/", chosen),
    ]


def by_token(officer: User, image: Image) -> list[Request]:
    """The API's routes, asked by a program that may do everything a program may."""
    account = make_account(responsible=officer)
    grant(account, image.collection, Role.OWNER)
    _, token = make_token(account, image.collection, per_minute=600)
    reading = [
        Request(name, "GET", url, {}, token)
        for name, route in routes()
        if (url := address(route, image)) is not None and url.startswith("/api/")
    ]
    return [*reading, Request("api search", "POST", "/api/v1/search", {"words": "x"}, token)]


@contextmanager
def statements(superuser: Superuser, before: list[str], after: list[str]) -> Iterator[None]:
    for statement in before:
        superuser.execute(statement)
    try:
        yield
    finally:
        for statement in after:
            superuser.execute(statement)


def revoked(superuser: Superuser, _folder: Path) -> AbstractContextManager[None]:
    what = "ON retrieval_auditevent {} cloister_owner"
    return statements(
        superuser,
        ["REVOKE INSERT " + what.format("FROM")],
        ["GRANT INSERT " + what.format("TO")],
    )


def lock_held(superuser: Superuser, _folder: Path) -> AbstractContextManager[None]:
    lock = "LOCK TABLE retrieval_auditevent, retrieval_audithead IN ACCESS EXCLUSIVE MODE"
    return statements(superuser, ["BEGIN", lock], ["ROLLBACK"])


def trigger(superuser: Superuser, body: str) -> AbstractContextManager[None]:
    return statements(
        superuser,
        [
            "CREATE FUNCTION break_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            f" $$ BEGIN {body} RETURN NEW; END $$",
            "CREATE TRIGGER break_log AFTER INSERT ON retrieval_auditevent"
            " FOR EACH ROW EXECUTE FUNCTION break_log()",
        ],
        ["DROP FUNCTION break_log CASCADE"],
    )


def disk_full(superuser: Superuser, _folder: Path) -> AbstractContextManager[None]:
    return trigger(superuser, "RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full';")


def killed_before_commit(superuser: Superuser, _folder: Path) -> AbstractContextManager[None]:
    return trigger(superuser, "PERFORM pg_terminate_backend(pg_backend_pid());")


@contextmanager
def killed_after_commit(_superuser: Superuser, folder: Path) -> Iterator[None]:
    """The entry is committed, and the connection is gone before anybody is told."""
    real = str(env.socket_folder(env.data_folder()) / ".s.PGSQL.5432")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(folder / ".s.PGSQL.5432"))
        listener.listen(32)
        threading.Thread(target=relay, args=(listener, real), daemon=True).start()
        settings = connection.settings_dict
        host, settings["HOST"] = settings["HOST"], str(folder)
        connection.close()
        try:
            yield
        finally:
            settings["HOST"] = host


def relay(listener: socket.socket, real: str) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=relay_one, args=(client, real), daemon=True).start()


def relay_one(client: socket.socket, real: str) -> None:
    with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
        server.connect(real)
        wrote_entry = threading.Event()
        cut = threading.Event()

        def answers() -> None:
            with suppress(OSError):
                while data := server.recv(65536):
                    if cut.is_set():
                        break
                    client.sendall(data)
                client.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=answers, daemon=True).start()
        while data := client.recv(65536):
            if b"cloister_audit_append" in data:
                wrote_entry.set()
            # A look's entry is committed with its own message, a change's with the change.
            is_a_look = b"SET LOCAL statement_timeout" in data
            if wrote_entry.is_set() and (is_a_look or b"COMMIT" in data):
                cut.set()
            server.sendall(data)


FAULTS: dict[str, Callable[[Superuser, Path], AbstractContextManager[None]]] = {
    "audit table revoked": revoked,
    "its lock held": lock_held,
    "its disk full": disk_full,
    "database killed before commit": killed_before_commit,
    "database killed after commit": killed_after_commit,
}


def ask(request: Request, cookies: Any) -> tuple[Request, HttpResponseBase, float]:
    client = Client(raise_request_exception=False)
    client.cookies = cookies
    began = time.monotonic()
    try:
        if request.token:
            told = {"Authorization": f"Bearer {request.token}"}
            body = json.dumps(request.form)
            answer = client.generic(
                request.method, request.url, body, "application/json", headers=told
            )
            return request, answer, time.monotonic() - began
        send = client.post if request.method == "POST" else client.get
        return request, send(request.url, request.form), time.monotonic() - began
    finally:
        connection.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_no_route_gives_data_while_the_log_is_broken(
    fault: str,
    requests: list[Request],
    browser: Client,
    image: Image,
    superuser: Superuser,
) -> None:
    # Every route where the database itself refuses or hangs; where it dies, every third.
    asked = requests if fault in ("audit table revoked", "its lock held") else requests[::-3]
    with (
        tempfile.TemporaryDirectory(prefix="c") as folder,
        FAULTS[fault](superuser, Path(folder)),
        # Where each waits, many at once; where each is refused at once, they take turns.
        ThreadPoolExecutor(4 if fault == "audit table revoked" else 20) as pool,
    ):
        answers = list(pool.map(lambda request: ask(request, browser.cookies), asked))

    assert len(requests) > 30
    for request, answer, seconds in answers:
        content = b"".join(answer) if answer.streaming else answer.content  # type: ignore[attr-defined]
        allowed = {503, 405}
        if request.route in middleware.UNAUDITED:
            allowed |= {200, 302}
        if request.route == "api:api-root":
            allowed |= {404}  # there is nothing at that address, for anybody
        if request.route in middleware.RECORDED_BEFORE and fault.endswith("after commit"):
            allowed |= {200}  # its entry was committed with the answer it is a part of
        assert answer.status_code in allowed, (request, answer.status_code)
        assert seconds < MOST_S, request
        if answer.status_code == 503:
            for told in (b"meier", b"ward photographs", str(image.pk).encode(), b"\xff\xd8"):
                assert told not in content, request


def test_what_no_view_recorded_is_recorded_all_the_same(
    browser: Client, log: Callable[[str], list[dict[str, Any]]]
) -> None:
    browser.get("/admin/retrieval/user/")
    browser.get("/")

    assert [e["route"] for e in log(Kind.PAGE_SERVED)] == [
        "admin:retrieval_user_changelist",
        "search",
    ]


def test_a_page_that_is_denied_is_recorded(
    image: Image, log: Callable[[str], list[dict[str, Any]]]
) -> None:
    clerk = signed_in(make_user(is_staff=True))

    assert clerk.get("/admin/retrieval/user/").status_code == 403
    assert log(Kind.PAGE_DENIED) == [{"route": "admin:retrieval_user_changelist", "status": 403}]


def test_what_is_not_on_the_log_is_published_and_holds_no_data(db: None) -> None:
    published = re.findall(r"^\| `([a-z0-9_:]+)` \|", DOCS.read_text(encoding="utf-8"), re.M)
    stranger = Client()

    assert published == list(middleware.UNAUDITED)
    assert stranger.get("/healthz").content == b"ok\n"
    assert b"meier" not in stranger.get("/sign-in").content


def test_a_stranger_fills_no_log(image: Image, superuser: Superuser) -> None:
    before = superuser.execute("SELECT number FROM retrieval_audithead").fetchone()
    for url in ("/", "/admin/", "/sign-in", "/healthz", "/nowhere"):
        Client().get(url)

    assert superuser.execute("SELECT number FROM retrieval_audithead").fetchone() == before
