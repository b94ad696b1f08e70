"""What staff do all day, without a mouse but for drawing."""

import base64
import re
from pathlib import Path

from django_otp.oath import totp
from playwright.sync_api import Browser, Locator, Page, expect

from tests import database
from tests.browser.conftest import ONE_TIME_PASSWORD, picture

OWN_PASSWORD = "a staple for the battery"

expect.set_options(timeout=30_000)  # the first query image waits for a detector to be loaded


def sign_in(page: Page, address: str, name: str, password: str) -> None:
    page.goto(address)
    expect(page.get_by_label("User name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def set_up_second_factor(page: Page) -> None:
    """With the key as a person would type it into an app, and the code it then shows."""
    expect(page.get_by_alt_text("QR code")).to_be_visible()
    key = page.locator("code.key").inner_text().replace(" ", "")
    page.get_by_label("Code that the app shows now").fill(f"{totp(base64.b32decode(key)):06d}")
    page.keyboard.press("Enter")
    expect(page.locator(".codes li")).to_have_count(10)
    page.get_by_role("link", name="I have them").press("Enter")


def test_a_newcomer_signs_in_changes_the_password_searches_and_opens_an_image_by_keyboard(
    page: Page, address: str, var: Path
) -> None:
    sign_in(page, address, "reader", ONE_TIME_PASSWORD)
    expect(page.get_by_role("heading", name="Change password")).to_be_visible()
    page.get_by_label("Old password").focus()
    for password in (ONE_TIME_PASSWORD, OWN_PASSWORD, OWN_PASSWORD):
        page.keyboard.type(password)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    words = page.get_by_label("Search for")
    expect(words).to_be_focused()
    page.keyboard.type("a photo of a cat")
    page.keyboard.press("Enter")
    expect(page.get_by_text("3 images")).to_be_visible()
    hits = page.locator("#grid .hit")
    expect(hits.first).to_be_focused()
    expect(hits.first).to_contain_text("chelsea.png")
    assert page.url == f"{address}/"

    page.keyboard.press("j")
    expect(hits.nth(1)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(hits.first).to_be_focused()
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_alt_text("De-identified preview")).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(hits.first).to_be_focused()

    page.keyboard.press("/")
    expect(words).to_be_focused()

    with database.connect(var, "superuser") as superuser:
        rows = superuser.execute(
            "SELECT kind FROM retrieval_auditevent WHERE actor_id ="
            " (SELECT id FROM retrieval_user WHERE username = 'reader')"
            " AND kind <> 'page.served' ORDER BY number"
        )
        assert [kind for (kind,) in rows] == [
            "session.signed_in",
            "user.changed",
            "search.served",
            "image.viewed",
            "image.viewed",
        ]


def test_an_image_is_the_question_and_its_neighbours_the_answer(page: Page, address: str) -> None:
    sign_in(page, address, "reader", OWN_PASSWORD)
    page.get_by_label("By example").set_input_files(picture("rocket.jpg"))
    expect(page.get_by_role("button", name="Remove")).to_be_visible()
    page.get_by_role("button", name="Search").press("Enter")
    hits = page.locator("#grid .hit")
    expect(hits.first).to_contain_text("rocket.jpg")

    page.keyboard.press("Enter")
    page.get_by_role("button", name="More like this").press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(hits.first).to_contain_text("rocket.jpg")
    expect(hits.first).to_contain_text("1.000")


def test_a_part_of_a_picture_is_drawn_and_asked_for(page: Page, address: str) -> None:
    sign_in(page, address, "reader", OWN_PASSWORD)
    page.get_by_label("By example").set_input_files(picture("rocket.jpg"))
    page.get_by_role("button", name="Draw a part").click()
    drag_over(page, page.get_by_alt_text("Your example"))
    page.keyboard.press("Escape")
    # Of rocket.jpg's 640 × 427 pixels, the middle half.
    expect(page.get_by_label("Only this part of it")).to_have_value(
        re.compile(r"^1(59|6\d), 10\d, ")
    )
    page.get_by_role("button", name="Search").press("Enter")
    hits = page.locator("#grid .hit")
    expect(hits.first).to_contain_text("rocket.jpg")

    hits.first.click()
    preview = page.get_by_alt_text("De-identified preview")
    expect(preview).to_be_visible()
    drag_over(page, preview)
    expect(page.get_by_label("or like this part")).to_have_value(re.compile(r"^1(59|6\d), 10\d, "))
    page.get_by_role("button", name="More like this").click()
    expect(page.get_by_label("Part of that image")).to_be_visible()

    page.get_by_label("less").last.check()
    page.get_by_role("button", name="Look again").click()
    expect(page.get_by_label("less").last).to_be_checked()
    page.get_by_text("Narrow down").click()


def drag_over(page: Page, place: Locator) -> None:
    """From a quarter of the way to three quarters."""
    box = place.bounding_box()
    assert box is not None
    for share, act in ((0.25, page.mouse.down), (0.75, page.mouse.up)):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"], steps=3)
        act()


def test_every_page_of_the_administration_works_under_its_policy(page: Page, address: str) -> None:
    sign_in(page, address, "ada", ONE_TIME_PASSWORD)
    set_up_second_factor(page)
    expect(page.get_by_label("Search for")).to_be_visible()
    for subject in (
        "collection",
        "collection/add",
        "privacyprofile",
        "image",
        "grant",
        "grant/add",
        "user",
        "user/add",
        "encoderversion",
        "budget",
        "certificate",
        "importbatch",
        "auditevent",
    ):
        answer = page.goto(f"{address}/admin/retrieval/{subject}/")
        assert answer is not None
        assert answer.status == 200, subject
        page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Verify the chain").click()
    expect(page.get_by_text("the chain holds")).to_be_visible()


def test_pages_are_usable_without_scripts(chromium: Browser, address: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    page.get_by_label("User name").fill("reader")
    page.get_by_label("Password").fill(OWN_PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Search for").fill("a photo of a cat")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#grid .hit").first).to_contain_text("chelsea.png")
    page.locator("#grid .hit").first.click()
    expect(page.get_by_alt_text("De-identified preview")).to_be_visible()
    context.close()
