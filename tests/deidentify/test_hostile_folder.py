"""`manage.py deidentify` answers for every file of a folder once, whatever lies in it."""

import io
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from django.core.management import call_command

from retrieval.errors import Reason, Rejected
from tests.decode import hostile, mutations, samples
from workers.deidentify.dicom import header
from workers.management.commands import deidentify

TEN_GB = 10 * 1024**3
PICTURE = samples.encode(samples.noise(24, 24))
STRANGE = [
    b"two\nlines.png",
    b"tab\tand \x1b[31mcolour.png",
    b"\xff\xfe not UTF-8.png",
    b"-rf.png",
    "رنة \u202e gnp.jpg".encode(),
    b"n" * 251 + b".png",
    b"... .png",
    b'"quoted\\".png',
]


def answers(folder: Path, output: Path) -> dict[str, tuple[str, str | None]]:
    """Run the command; each name may come once only."""
    out = io.StringIO()
    call_command("deidentify", folder, output=output, json=True, stdout=out)
    files = json.loads(out.getvalue())["files"]
    assert not [name for name, n in Counter(f["file"] for f in files).items() if n > 1]
    return {f["file"]: (f["verdict"], f["reason"]) for f in files}


def test_every_kind_of_entry_has_one_answer(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "below.png").mkdir(parents=True)
    expected: dict[str, tuple[str, str | None]] = {}
    for raw in STRANGE:
        (folder / os.fsdecode(raw)).write_bytes(PICTURE)
        expected[raw.decode(errors="backslashreplace")] = ("released", None)
    (folder / "below.png" / "zero").write_bytes(b"")
    expected["below.png/zero"] = ("rejected", "empty_file")
    os.mkfifo(folder / "pipe.png")
    (folder / "no answer.png").symlink_to("/proc/self/mem")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "up").symlink_to(folder)
    for name in ("pipe.png", "no answer.png", "circle.png", "endless.png"):
        expected[name] = ("rejected", "unreadable_file")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(TEN_GB)
    expected["sparse.png"] = ("rejected", "file_too_large")

    found = answers(folder, tmp_path / "out")

    assert found == expected
    assert len(list((tmp_path / "out").iterdir())) == len(STRANGE)


def test_a_folder_too_deep_to_list_stands_for_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "picture.png").write_bytes(PICTURE)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    found = answers(folder, tmp_path / "out")

    assert found.pop("picture.png") == ("released", None)
    assert list(found.values()) == [("rejected", "unreadable_file")]


def test_a_pipe_that_takes_a_file_s_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a.png")
    monkeypatch.setattr(Path, "is_file", lambda _: True)

    with pytest.raises(Rejected) as refused:
        deidentify._read(tmp_path / "a.png")

    assert refused.value.reason is Reason.UNREADABLE_FILE


def test_a_file_that_is_gone_when_its_turn_comes_has_an_answer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(PICTURE)
    read = deidentify._read

    def read_and_remove(file: Path) -> bytes:
        (folder / "b.png").unlink(missing_ok=True)
        return read(file)

    monkeypatch.setattr(deidentify, "_read", read_and_remove)

    assert answers(folder, tmp_path / "out") == {
        "a.png": ("released", None),
        "b.png": ("rejected", "unreadable_file"),
    }


def test_a_hundred_hostile_files_have_a_hundred_answers(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    whole = mutations.seeds()
    for number, name in enumerate(sorted(whole)[:50]):
        (folder / f"{number}.jpg").write_bytes(whole[name][: 100 + number])
    for number in range(50):
        (folder / f"junk{number}.dcm").write_bytes(hostile.PNG[number:][:400])

    found = answers(folder, tmp_path / "out")

    assert len(found) == 100
    assert {reason for verdict, reason in found.values() if verdict == "rejected"} <= set(Reason)


def test_a_value_that_cannot_be_read_is_left_out_of_the_object(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = samples.grey_dicom(hostile.GREY, SeriesInstanceUID="1.2.3.4")
    at = content.index(b"\x20\0\x0e\0") + 4
    (tmp_path / "in.dcm").write_bytes(content[:at] + b"UH" + content[at + 2 :])

    found = answers(tmp_path / "in.dcm", tmp_path / "out")

    assert found["in.dcm"] == ("released", None)
    (written,) = (tmp_path / "out").glob("*.dcm")
    assert b"1.2.3.4" not in written.read_bytes()
    assert not caplog.records


def test_what_nobody_expected_costs_one_file_its_answer_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise RuntimeError("Doe^Jane")

    monkeypatch.setattr(header, "read", fail)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(samples.grey_dicom(hostile.GREY))
    (folder / "b.png").write_bytes(PICTURE)

    assert answers(folder, tmp_path / "out") == {
        "a.dcm": ("rejected", "decode_failed"),
        "b.png": ("released", None),
    }
    assert "RuntimeError" in caplog.text
    assert "Doe" not in caplog.text


def test_a_thousand_files_may_ask_for_one_name(tmp_path: Path) -> None:
    names = [deidentify._write_one(b"", tmp_path, "0f", "jpg") for _ in range(1000)]

    assert names[:3] == ["0f.jpg", "0f-2.jpg", "0f-3.jpg"]
    assert len(set(names)) == 1000


def test_a_name_is_printed_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\nb\udcff.png").write_bytes(b"")
    out = io.StringIO()
    call_command("deidentify", tmp_path, output=tmp_path.parent / "out", stdout=out)

    assert "a\\nb\\xff.png" in out.getvalue()
