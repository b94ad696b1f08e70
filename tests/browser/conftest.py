"""A real browser before a real appliance: its web server, its workers, its database."""

import importlib.util
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from playwright.sync_api import Browser, Page, sync_playwright
from pytest_django.plugin import DjangoDbBlocker

from appliance.embedded import supervisor
from appliance.embedded.supervisor import Appliance
from retrieval import queue
from retrieval.models import Purpose, Role
from tests import database
from tests.factories import grant, make_collection, make_user

ONE_TIME_PASSWORD = "correct horse battery"
PICTURES = ("coffee.png", "chelsea.png", "rocket.jpg")


def picture(name: str) -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / name


@pytest.fixture(scope="module")
def address(
    services: Appliance,
    var: Path,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of an appliance with three indexed pictures, a reader and an administrator."""
    database.empty(var)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for program in (*supervisor.WORKERS, supervisor.web(port)):
        services.start(program)
    with django_db_blocker.unblock():
        queue.wait_for_query_worker(120.0)
        folder = tmp_path_factory.mktemp("inbox")
        for name in PICTURES:
            shutil.copy(picture(name), folder)
        collection = make_collection("Photographs")
        call_command("import", str(folder), collection="Photographs", wait=True, json=True)
        reader = make_user("reader", must_change_password=True)
        grant(reader, collection, Role.CURATOR, Purpose.TREATMENT)
        administrator = make_user("ada", is_staff=True, is_superuser=True)
        grant(administrator, collection, Role.OWNER, Purpose.ADMINISTRATION)
    yield f"http://127.0.0.1:{port}"
    services.stop_programs()


@pytest.fixture(scope="module")
def chromium(address: str) -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("no chromium: install it with `apt-get install -y chromium`")
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A fresh window. Whatever the browser complains about, a broken policy too, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    window = context.new_page()
    complaints: list[str] = []
    window.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    window.on("pageerror", lambda error: complaints.append(str(error)))
    yield window
    context.close()
    assert complaints == []
