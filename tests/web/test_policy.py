import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.test import Client
from django.urls import reverse

from appliance import settings as module
from retrieval import queue
from retrieval.errors import ServicesUnavailable
from tests.factories import make_user
from tests.web.conftest import signed_in

pytestmark = pytest.mark.usefixtures("db")

TEMPLATES = sorted((Path(module.__file__).parent / "web" / "templates").rglob("*.html"))


def policy_of(answer: Any) -> dict[str, set[str]]:
    parts = answer.headers["Content-Security-Policy"].split("; ")
    return {name: set(values) for name, *values in (part.split() for part in parts)}


def test_staff_pages_run_and_load_nothing_but_their_own_files() -> None:
    policy = policy_of(Client().get(reverse("sign_in")))

    assert policy["default-src"] == {"'none'"}
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == {"'none'"}


def test_the_administration_relaxes_two_directives_and_no_more() -> None:
    staff = policy_of(Client().get(reverse("sign_in")))
    administration = policy_of(signed_in(make_user(is_staff=True)).get("/admin/"))

    changed = {name: administration[name] - staff[name] for name in staff}
    assert {name: more for name, more in changed.items() if more} == {
        "script-src": {"'unsafe-eval'"},
        "style-src": {"'unsafe-inline'"},
    }


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_inline_script_or_style_and_name_no_other_host(template: Path) -> None:
    text = template.read_text(encoding="utf-8")

    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|hx-on", text) == []
    assert re.findall(r"(?:href|src|action)=\"(?:https?:)?//", text) == []


def test_health_says_ok_to_anybody_and_nothing_else() -> None:
    answer = Client().get("/healthz")

    assert (answer.status_code, answer.content) == (200, b"ok\n")


def test_health_fails_without_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_stage: str) -> bool:
        raise ServicesUnavailable("the broker does not answer")

    monkeypatch.setattr(queue, "is_idle", fail)

    assert Client().get("/healthz").status_code == 503


@pytest.fixture
def database_gone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse() -> None:
        raise OperationalError("secret detail")

    def begin() -> None:
        connection.close()
        monkeypatch.setattr(connection, "connect", refuse)

    return begin


def test_health_fails_without_the_database(database_gone: Callable[[], None]) -> None:
    database_gone()

    assert Client().get("/healthz").status_code == 503


@pytest.mark.parametrize("url", ["/", "/admin/", "/images/00000000-0000-0000-0000-000000000000/"])
def test_without_the_database_pages_answer_503_and_tell_nothing(
    database_gone: Callable[[], None], url: str
) -> None:
    visitor = signed_in(make_user(is_staff=True))
    database_gone()

    answer = visitor.get(url)

    assert answer.status_code == 503
    assert "secret detail" not in answer.content.decode()


def test_uploads_never_lie_in_the_memory_of_the_web_process() -> None:
    assert settings.FILE_UPLOAD_HANDLERS == ["appliance.web.upload.UnlinkedFileUploadHandler"]


def test_addresses_nobody_has_answer_as_foreign_ones_do() -> None:
    reader = signed_in(make_user())
    nowhere = reader.get("/nowhere")
    missing = reader.get("/images/00000000-0000-0000-0000-000000000000/")

    assert nowhere.status_code == missing.status_code == 404
    assert nowhere.content == missing.content
