"""`manage.py audit …` as an operator and an auditor use it."""

import io
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command

from retrieval import access, audit, look
from retrieval.audit import outside
from retrieval.models import Image, Kind, Purpose, Subject
from tests.factories import make_collection, make_encoder, make_image, make_user, operator

pytestmark = pytest.mark.usefixtures("db")

Superuser = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, settings: Any) -> Path:
    settings.CLOISTER_CHECKPOINTS = tmp_path / "kept"
    return tmp_path / "kept"


@pytest.fixture
def entries(db: None) -> None:
    for n in range(6):
        audit.record(Kind.SEARCH_SERVED, actor=operator(), purpose="TREAT", query=str(n))


def run(*arguments: object) -> str:
    out = io.StringIO()
    call_command("audit", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_a_checkpoint_is_printed_kept_and_copied(
    entries: None, folder: Path, tmp_path: Path
) -> None:
    printed = run("checkpoint", "--output", tmp_path / "copy")

    assert printed.split("\n")[1] == "7"
    assert (tmp_path / "copy").read_text(encoding="utf-8") == printed
    assert (folder / "000000000007.checkpoint").read_text(encoding="utf-8") == printed
    assert (folder / "public-key.pem").read_text(encoding="utf-8") == run("key")


def test_verify_holds_the_log_against_the_folder_and_against_a_file(
    entries: None, tmp_path: Path
) -> None:
    run("checkpoint", "--output", tmp_path / "copy")
    run("checkpoint")

    assert json.loads(run("verify", "--json"))["checkpoint"] == 8
    one = json.loads(run("verify", "--checkpoint", tmp_path / "copy", "--json"))
    assert (one["holds"], one["checkpoint"]) == (True, 7)


def test_verify_names_the_entry_and_fails(
    entries: None, superuser: Superuser, tmp_path: Path
) -> None:
    run("checkpoint")
    superuser.execute("SET session_replication_role = replica")
    superuser.execute("UPDATE retrieval_auditevent SET kind = 'x' WHERE number = 3")

    with pytest.raises(CommandError, match="entry 3 is wrong: "):
        run("verify")
    with pytest.raises(CommandError, match="entry 3 is wrong"):
        run("export", "--output", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_an_emptied_folder_of_checkpoints_is_no_log_that_holds(entries: None, folder: Path) -> None:
    assert "its own chain only" in run("verify")
    run("checkpoint")
    for path in folder.iterdir():
        path.unlink()

    with pytest.raises(CommandError, match="no checkpoint is where they are kept"):
        run("verify")


def test_a_folder_that_the_operator_named_must_hold_a_checkpoint(
    entries: None, settings: Any
) -> None:
    settings.CLOISTER_CHECKPOINTS_EXPECTED = True

    with pytest.raises(CommandError, match="no checkpoint"):
        run("verify")
    run("checkpoint")
    run("verify")


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--checkpoint", "/nowhere"),
        ("verify", "--export", "/nowhere"),
        ("verify", "--export", "/nowhere", "--public-key", "/nowhere"),
        ("export",),
        ("export", "--send"),
        ("export", "--output", "/nowhere/x"),
        ("export", "--output", "x", "--since", "yesterday"),
        ("export", "--output", "x", "--since", "2026-13-45"),
        ("export", "--output", "x", "--as", "nobody"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    entries: None, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(CommandError) as refused:
        run(*arguments)

    assert "\n" not in str(refused.value)
    assert "nowhere" not in str(refused.value)


@pytest.fixture
def exported(entries: None, tmp_path: Path) -> tuple[Path, Path]:
    """The whole log as a file, and the public key."""
    run("export", "--output", tmp_path / "log.jsonl")
    (tmp_path / "key.pem").write_text(run("key"), encoding="utf-8")
    return tmp_path / "log.jsonl", tmp_path / "key.pem"


def changed(path: Path, number: int, **fields: object) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line.get("number") == number:
            line.update(fields)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_an_export_is_verified_with_nothing_but_the_public_key(
    exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.keys._read_key_file", lambda _path: pytest.fail("the key file"))
    monkeypatch.setattr("django.db.connection.ensure_connection", lambda: pytest.fail("database"))
    path, key = exported

    told = json.loads(run("verify", "--export", path, "--public-key", key, "--json"))

    assert (told["holds"], told["entries"], told["checkpoint"]) == (True, 7, 7)
    assert path.stat().st_mode & 0o077 == 0


def test_a_changed_export_is_found_at_its_entry(exported: tuple[Path, Path]) -> None:
    path, key = exported
    changed(path, 4, details="{}")

    with pytest.raises(CommandError, match="entry 4 is wrong"):
        run("verify", "--export", path, "--public-key", key)


def test_an_export_cut_short_is_found(exported: tuple[Path, Path]) -> None:
    path, key = exported
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:5]), encoding="utf-8")

    with pytest.raises(CommandError, match="entry 5 is wrong: the log was cut off here"):
        run("verify", "--export", path, "--public-key", key)


def test_an_export_is_held_against_a_later_folder_of_checkpoints(
    exported: tuple[Path, Path], folder: Path
) -> None:
    run("checkpoint")
    path, key = exported

    run("verify", "--export", path, "--public-key", key, "--checkpoint", folder)


@pytest.mark.parametrize("content", ["", "{}\n", "[]\n", "x\n", '{"export": "other"}\n', "\x00"])
def test_what_is_no_export_is_refused(exported: tuple[Path, Path], content: str) -> None:
    path, key = exported
    path.write_text(content, encoding="utf-8")

    with pytest.raises(CommandError):
        run("verify", "--export", path, "--public-key", key)


def test_a_part_of_the_log_is_proven_to_be_of_it(entries: None, tmp_path: Path) -> None:
    path, key = tmp_path / "part.jsonl", tmp_path / "key.pem"
    key.write_text(run("key"), encoding="utf-8")
    run("export", "--output", path, "--since", "2020-01-01", "--until", "2999-01-01T00:00:00Z")

    assert (
        json.loads(run("verify", "--export", path, "--public-key", key, "--json"))["entries"] == 7
    )
    changed(path, 4, proof=[])
    with pytest.raises(CommandError, match="entry 4 is wrong"):
        run("verify", "--export", path, "--public-key", key)


def test_a_part_is_not_taken_for_the_whole_log(
    exported: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    path, key = exported
    (whole, *_) = path.read_text(encoding="utf-8").splitlines()
    path.write_text(json.dumps(json.loads(whole) | {"complete": False}) + "\n", encoding="utf-8")

    assert "others may have been left out" in run("verify", "--export", path, "--public-key", key)
    told = json.loads(run("verify", "--export", path, "--public-key", key, "--json"))
    assert (told["holds"], told["complete"]) == (True, False)
    # A lone head of another size says nothing of single entries: it must not seem to.
    run("checkpoint", "--output", tmp_path / "alone")
    path.unlink()
    run("export", "--output", path, "--since", "2020-01-01")
    with pytest.raises(CommandError, match="against a folder"):
        run("verify", "--export", path, "--public-key", key, "--checkpoint", tmp_path / "alone")


def test_a_folder_that_holds_no_checkpoint_is_not_verified_against(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "emptied").mkdir()
    path, key = exported

    with pytest.raises(CommandError, match="holds no checkpoint"):
        run("verify", "--checkpoint", tmp_path / "emptied")
    with pytest.raises(CommandError, match="holds no checkpoint"):
        run("verify", "--export", path, "--public-key", key, "--checkpoint", tmp_path / "emptied")


def test_an_export_is_on_the_log_and_for_those_who_may_read_it(
    entries: None, tmp_path: Path, superuser: Superuser
) -> None:
    make_user("stranger")
    with pytest.raises(CommandError, match="may not read the log"):
        run("export", "--output", tmp_path / "x", "--as", "stranger")

    run("export", "--output", tmp_path / "x", "--subject", "12")
    rows = superuser.execute(
        "SELECT details::json->>'subject' FROM retrieval_auditevent WHERE kind = 'audit.exported'"
    ).fetchall()
    assert rows == [("12",)]


def subject_and_image() -> tuple[int, Image]:
    make_encoder()
    collection = make_collection()

    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        subject = Subject.objects.create(collection=collection, pseudonym="p")
    return subject.pk, make_image(collection, [1, 0, 0], subject=subject)


def test_who_saw_images_of_a_subject_is_told(entries: None, tmp_path: Path) -> None:
    subject, image = subject_and_image()
    path = tmp_path / "seen.jsonl"
    seen = audit.record(Kind.IMAGE_VIEWED, actor=operator(), image=image.pk)
    looked_at = look.look_at(image.pk, actor=operator(), purpose=Purpose.ADMINISTRATION)
    erased_since = audit.record(Kind.SEARCH_SERVED, actor=operator(), subjects=[subject])

    run("export", "--output", path, "--subject", subject)

    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    numbers = [seen, looked_at.audit_number, erased_since, erased_since + 1]
    assert [line["number"] for line in lines[1:]] == numbers
    assert json.loads(lines[2]["details"])["subject"] == subject
    assert outside.configured().size == 0
