"""A reviewer at work: boxes by mouse, reasons and decisions by key. The stage runs in process."""

import io
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from PIL import Image as Picture
from playwright.sync_api import Page, expect
from pytest_django.plugin import DjangoDbBlocker

from appliance.embedded import supervisor
from appliance.embedded.supervisor import Appliance
from retrieval import receive
from retrieval.models import Purpose, Role, Stage, Work
from tests import database
from tests.browser.conftest import ONE_TIME_PASSWORD
from tests.factories import enrol, grant, make_collection, make_user, operator
from tests.workers.test_cover import Given
from workers import stages, tasks
from workers.deidentify.verdict import Detectors

PICTURES = 3
recovery_codes: list[str] = []
RunStage = Callable[[Stage], None]


def run(stage: Stage) -> None:
    """What the worker does with all that is due at this stage."""
    task = {Stage.DEIDENTIFY: tasks.deidentify, Stage.COVER: tasks.cover}[stage]
    with database.role("worker"):
        for work_id in Work.objects.filter(stage=stage).values_list("pk", flat=True):
            task(work_id)


@pytest.fixture(scope="module")
def worker(
    services: Appliance, var: Path, django_db_blocker: DjangoDbBlocker
) -> Iterator[RunStage]:
    """Runs a stage in a thread of its own, where the browser's event loop does not run."""
    database.empty(var)
    with (
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(1) as thread,
        django_db_blocker.unblock(),
    ):
        patch.setattr(stages, "detectors_for", lambda _profile: Detectors(Given()))
        patch.setattr("workers.deidentify.verdict._share", lambda *_: 0.0)
        yield lambda stage: thread.submit(run, stage).result()


@pytest.fixture(scope="module")
def address(services: Appliance, worker: RunStage) -> Iterator[str]:
    """An appliance without workers, three grey pictures in review and who reviews them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    services.start(supervisor.web(port))
    collection = make_collection("Photographs")
    reviewer = make_user("reviewer")
    grant(reviewer, collection, Role.REVIEWER, Purpose.TREATMENT)
    recovery_codes[:] = enrol(reviewer)
    acting, purpose = operator(), Purpose.ADMINISTRATION
    batch = receive.start_batch(collection, actor=acting, purpose=purpose)
    for number in range(PICTURES):
        file = io.BytesIO()
        Picture.new("RGB", (96, 64), (200, 200, 200 - number)).save(file, "PNG")
        candidate = receive.Candidate(f"{number}.png", partial(io.BytesIO, file.getvalue()))
        receive.receive(candidate, batch, actor=acting, purpose=purpose)
    worker(Stage.DEIDENTIFY)
    wait_for(port)
    yield f"http://127.0.0.1:{port}"
    services.stop_programs()


def wait_for(port: int, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    pytest.fail("the web server did not start")


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the picture, from and to in pixels of the picture."""
    place = page.locator("#picture image").bounding_box()
    assert place is not None
    across, down = place["width"] / 96, place["height"] / 64
    page.mouse.move(place["x"] + start[0] * across, place["y"] + start[1] * down)
    page.mouse.down()
    page.mouse.move(place["x"] + end[0] * across, place["y"] + end[1] * down, steps=4)
    page.mouse.up()


def test_a_box_is_drawn_one_taken_off_and_what_was_left_covered_is_released_by_key(
    page: Page, address: str, worker: RunStage, var: Path
) -> None:
    page.goto(f"{address}/review/")
    sign_in_here(page)
    expect(page.get_by_text(f"{PICTURES} images")).to_be_visible()
    hits = page.locator("#grid .hit")
    expect(hits.first).to_be_focused()
    page.keyboard.press("j")
    expect(hits.nth(1)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("#picture .box.detector")).not_to_have_count(0)

    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")

    drag(page, (70, 4), (90, 14))
    drawn = page.locator("input[name=box]")
    expect(drawn).to_have_value("face 70 4 20 10")
    page.keyboard.press("Delete")
    expect(drawn).to_have_count(0)
    drag(page, (60, 50), (110, 70))
    expect(drawn).to_have_value("face 60 50 36 14")

    page.locator("#boxes .pick").first.focus()
    page.keyboard.press("Delete")
    expect(page.get_by_role("dialog", name="Why is this cover taken off?")).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator("#boxes select").first).to_have_value("not_a_face")
    page.keyboard.press("r")
    expect(page.get_by_text("cover again first")).to_be_visible()
    page.keyboard.press("c")

    expect(page.get_by_text("being drawn anew")).to_be_visible()
    expect(page.locator("#release")).to_have_count(0)
    worker(Stage.COVER)
    expect(page.locator("#picture .box.reviewer")).to_have_count(1)
    expect(page.locator("#picture .box.last_look")).not_to_have_count(0)
    first = page.url

    expect(page.get_by_text("another reviewer")).to_be_visible()
    page.keyboard.press("x")
    page.wait_for_url(lambda url: url != first)
    second = page.url
    page.keyboard.press("r")
    page.wait_for_url(lambda url: url not in (first, second))
    expect(page.get_by_text("1 waiting")).to_be_visible()

    with database.connect(var, "superuser") as superuser:
        rows = superuser.execute(
            "SELECT kind, details FROM retrieval_auditevent WHERE kind LIKE 'review.%'"
            " ORDER BY number"
        ).fetchall()
        states = superuser.execute("SELECT state FROM retrieval_image ORDER BY received_at")
        assert [state for (state,) in states] == ["rejected", "deidentified", "review"]
    assert [kind for kind, _ in rows] == [
        "review.boxes_changed",
        "review.decided",
        "review.decided",
    ]
    assert '"reasons":["not_a_face"]' in str(rows[0][1])
    assert '"decision":"rejected"' in str(rows[1][1])
    assert '"render":2' in str(rows[1][1])
    assert '"decision":"released"' in str(rows[2][1])


def test_numbers_and_reasons_do_it_all_without_a_mouse(
    page: Page, address: str, worker: RunStage
) -> None:
    page.goto(f"{address}/review/")
    sign_in_here(page)
    expect(page.locator("#grid .hit").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#picture")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_label("Left")).to_be_focused()
    for number in ("1", "2", "30", "40"):
        page.keyboard.type(number)
        page.keyboard.press("Tab")
    page.get_by_label("Kind").select_option("text")
    page.get_by_role("button", name="Add these numbers").press("Enter")
    expect(page.locator("input[name=box]")).to_have_value("text 1 2 30 40")
    page.keyboard.press("c")
    expect(page.get_by_text("being drawn anew")).to_be_visible()
    worker(Stage.COVER)
    expect(page.locator("#picture .box.text.reviewer")).to_have_count(1)


def sign_in_here(page: Page) -> None:
    """On the way to the page that was asked for."""
    page.get_by_label("User name").fill("reviewer")
    page.get_by_label("Password").fill(ONE_TIME_PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_label("Code from your authenticator app").fill(recovery_codes.pop())
    page.keyboard.press("Enter")
