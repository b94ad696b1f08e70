"""The whole way, through the commands and the real worker processes."""

import importlib.util
import io
import json
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django.plugin import DjangoDbBlocker

from appliance.embedded import supervisor
from appliance.embedded.supervisor import Appliance
from retrieval import queue
from retrieval.models import Collection, Purpose, Role, User
from retrieval.query import LookIn
from tests import database
from tests.factories import grant, make_collection, make_user, png


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def run(command: str, *arguments: str, **options: Any) -> Any:
    """A command's one JSON document."""
    out = io.StringIO()
    call_command(command, *arguments, stdout=out, json=True, **options)
    return json.loads(out.getvalue())


def bomb() -> bytes:
    """A PNG of a few kilobytes that unpacks to gigabytes: 60,000 × 60,000 black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    side = (60_000).to_bytes(4, "big")
    header = chunk(b"IHDR", side + side + bytes([8, 2, 0, 0, 0]))
    data = chunk(b"IDAT", zlib.compress(bytes(16 * 1024 * 1024), 9))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def workers(services: Appliance, var: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The real worker processes, on empty tables, for this module."""
    database.empty(var)
    for program in supervisor.WORKERS:
        services.start(program)
    with django_db_blocker.unblock():
        queue.wait_for_query_worker(120.0)
        yield
    services.stop_programs()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a scan, and every kind of bad input that fits in a folder."""
    folder = tmp_path_factory.mktemp("inbox")
    for name in ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png"):
        shutil.copy(package("skimage") / name, folder)
    tests = package("pydicom") / "test_files"
    shutil.copy(tests / "CT_small.dcm", folder)
    shutil.copy(tests / "reportsi.dcm", folder / "no-pixels.dcm")
    (folder / "notes.txt").write_text("not an image")
    (folder / "CT_small.txt").write_text("Jane Roe has an old fracture of the left wrist.")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "coffee.png").read_bytes()[:5000])
    (folder / "dot.png").write_bytes(png(side=1))
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "line\nbreak.png").write_bytes(png())
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("../evil.png", png())
        archive.writestr("x" * 4000, png())
        archive.writestr("plain.png", png(side=64))
        archive.writestr("plain.txt", "A recipe for onion soup with butter, by Jane Roe.")
    return folder


@pytest.fixture(scope="module")
def report(workers: None, folder: Path) -> Any:
    make_collection("Photographs")
    make_collection("Sealed")
    run(
        "import",
        str(package("skimage") / "chelsea.png"),
        collection="Sealed",
        wait=True,
    )
    return run("import", str(folder), collection="Photographs", wait=True, tags=["inbox"])


@pytest.fixture(scope="module")
def reader(report: Any) -> User:
    user = make_user("reader")
    grant(user, Collection.objects.get(name="Photographs"), Role.CURATOR, Purpose.TREATMENT)
    return user


@pytest.fixture(autouse=True)
def unblocked(workers: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


def search(*words: str, **options: Any) -> Any:
    return run("search", *words, user="reader", purpose="TREAT", **options)


def test_every_file_is_accounted_for_with_one_reason(report: Any) -> None:
    assert {r["file"]: r["reason"] for r in report["rejected"]} == {
        "no-pixels.dcm": "no_pixels",
        "notes.txt": "not_an_image",
        "empty.png": "empty_file",
        "cut.png": "truncated",
        "dot.png": "too_small",
        "bomb.png": "too_many_pixels",
        "line\nbreak.png": "unsafe_name",
        "more.zip/../evil.png": "unsafe_name",
        "more.zip/" + "x" * 4000: "name_too_long",
    }
    assert report["indexed"] == 6
    assert report["review"] == report["pending"] == 0
    assert report["received"] == 15


def test_importing_again_leaves_one_image_each(report: Any, folder: Path) -> None:
    again = run("import", str(folder), collection="Photographs", wait=True)

    assert again["indexed"] == report["indexed"]
    assert again["duplicates"] == 10


def test_words_find_the_picture_they_describe(reader: User) -> None:
    answer = search("a", "cat")

    assert answer["hits"][0]["source"] == "chelsea.png"
    assert answer["audit"] > 0


def test_an_example_finds_itself(reader: User, folder: Path) -> None:
    answer = search(image=[folder / "rocket.jpg"], limit=1)

    assert [hit["source"] for hit in answer["hits"]] == ["rocket.jpg"]


def test_what_was_imported_with_a_tag_is_found_by_it(reader: User) -> None:
    assert search("a", "cat", tag=["inbox"])["hits"]
    assert search("a", "cat", tag=["outbox"])["hits"] == []
    assert search("a", "cat", peoples_tag=["inbox"])["hits"]
    assert search("a", "cat", peoples_tag=["outbox"])["hits"] == []


def test_words_find_the_picture_whose_report_says_it(report: Any, reader: User) -> None:
    assert report["reports"] == 2
    for words, source in (("broken wrist", "CT_small.dcm"), ("onion soup", "more.zip/plain.png")):
        hit = search(words, look_in=LookIn.REPORTS)["hits"][0]
        assert (hit["source"], hit["found_in"]) == (source, "report")
        assert source in [hit["source"] for hit in search(words)["hits"][:2]]


def test_words_and_an_example_are_mixed(reader: User, folder: Path) -> None:
    answer = search("a", "rocket", image=[folder / "rocket.jpg"], limit=1)

    assert [hit["source"] for hit in answer["hits"]] == ["rocket.jpg"]


def test_a_collection_without_a_grant_gives_no_hit_to_any_kind_of_query(
    reader: User, folder: Path
) -> None:
    for answer in (search("a", "cat"), search(image=[folder / "chelsea.png"])):
        assert {hit["collection"] for hit in answer["hits"]} == {"Photographs"}
    with pytest.raises(CommandError):
        search("a", "cat", collection=["Sealed"])


def test_an_evaluation_asks_the_real_encoder(report: Any, tmp_path: Path) -> None:
    queries = tmp_path / "queries.tsv"
    queries.write_text("query\trelevant\na cat\tchelsea.png\na rocket launch\trocket.jpg\n")

    (model,) = run("evaluate", queries=queries, collection=["Photographs"])["models"]

    assert (model["model"], model["queries"]) == ("cloister-embedded", 2)
    assert model["recall@5"] == 1.0


@pytest.mark.parametrize(
    ("command", "arguments", "options"),
    [
        ("import", ["/nowhere"], {"collection": "Photographs"}),
        ("import", ["."], {"collection": "unknown"}),
        ("import", ["."], {"collection": "Photographs", "tags": ["a\nb"]}),
        ("search", ["cat"], {"user": "nobody", "purpose": "TREAT"}),
        ("search", ["cat"], {"user": "reader", "purpose": "CURIOSITY"}),
        ("search", ["cat"], {"user": "reader", "purpose": "TREAT", "collection": ["unknown"]}),
        ("search", [], {"user": "reader", "purpose": "TREAT"}),
        ("search", ["cat"], {"user": "reader", "purpose": "TREAT", "limit": 0}),
        ("search", [], {"user": "reader", "purpose": "TREAT", "image": [Path("/nowhere.png")]}),
    ],
)
def test_an_unknown_name_is_one_line(
    reader: User, command: str, arguments: list[str], options: dict[str, Any]
) -> None:
    with pytest.raises(CommandError) as refused:
        run(command, *arguments, **options)

    assert "\n" not in str(refused.value)


def test_an_example_that_cannot_be_used_is_refused_in_the_sentence_of_the_page(
    reader: User, folder: Path
) -> None:
    with pytest.raises(CommandError) as refused:
        search(image=[folder / "dot.png"])

    assert str(refused.value) == "The example image cannot be used: too small."


def test_the_log_holds_after_all_this(reader: User) -> None:
    assert run("audit", "verify")["holds"]


def test_nothing_secret_is_in_the_processes_logs(report: Any, reader: User, var: Path) -> None:
    search("unmistakable", "words")
    time.sleep(0.5)

    for log in (var / "log").iterdir():
        text = log.read_text(errors="replace")
        for secret in ("unmistakable", "chelsea.png", "coffee.png", "onion", "wrist"):
            assert secret not in text, log.name
