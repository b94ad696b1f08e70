"""`manage.py deidentify` says what became of every file, and writes only what was released."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from PIL import Image
from pydicom import dcmread

from retrieval import keys
from retrieval.errors import Reason, ServicesUnavailable
from tests.decode import samples
from tests.deidentify.writing import written
from workers.decode import sandbox, stored
from workers.decode.sandbox import decode
from workers.deidentify.dicom import pixels
from workers.deidentify.verdict import (
    PROFILES,
    Detectors,
    Profile,
    deidentify_frames,
    detectors_for,
)
from workers.management.commands import deidentify as command

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does: another process, and no database to reach."""
    return subprocess.run(
        [sys.executable, "manage.py", "deidentify", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "CLOISTER_VAR": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def json_of(path: Path, output: Path) -> Any:
    """The command's report, from this process."""
    out = io.StringIO()
    call_command("deidentify", path, output=output, json=True, stdout=out)
    return json.loads(out.getvalue())


def clinical() -> tuple[Profile, Detectors]:
    return PROFILES["clinical"], detectors_for(PROFILES["clinical"])


def a_key_file(folder: Path) -> Path:
    keys.create_key_file(folder / "a.key")
    return folder / "a.key"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    (folder / "deep").mkdir()
    (folder / "astronaut.png").write_bytes(samples.picture("astronaut.png"))
    (folder / "deep" / "astronaut.png").write_bytes(samples.encode(samples.noise(40, 40)))
    (folder / "Doe, Jane (1970).png").write_bytes(samples.encode(samples.noise(40, 40)))
    (folder / "scan.dcm").write_bytes(samples.dicom("examples_rgb_color.dcm"))
    (folder / "letter.jpg").write_bytes(b"not a picture at all")
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return folder


def test_every_file_has_one_entry_and_only_the_released_are_written(
    folder: Path, tmp_path: Path
) -> None:
    ran = run(folder, "--output", tmp_path / "out", "--json")

    assert ran.returncode == 0, ran.stderr
    files = {entry["file"]: entry for entry in json.loads(ran.stdout)["files"]}
    assert {name: (entry["verdict"], entry["reason"]) for name, entry in files.items()} == {
        "astronaut.png": ("released", None),
        "deep/astronaut.png": ("released", None),
        "Doe, Jane (1970).png": ("released", None),
        "scan.dcm": ("review", "may_carry_burned_in_text"),
        "letter.jpg": ("rejected", "not_an_image"),
        "empty.png": ("rejected", "empty_file"),
        "gone.png": ("rejected", "unreadable_file"),
    }
    for entry in files.values():
        assert entry["seconds"] >= 0
        assert entry["text"] == []
        assert bool(entry["tags"]) == (entry["file"] == "scan.dcm")
    (face,) = files["astronaut.png"]["faces"]
    assert set(face) == {"box", "score", "detector"}
    assert face["box"] == pytest.approx([180, 65, 90, 115], abs=15)
    outputs = [entry["output"] for entry in files.values() if entry["verdict"] == "released"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(outputs)
    # Not by its file's name, which may be a patient's: only the report tells whose it is.
    assert all(re.fullmatch(r"[0-9a-f]{20}(-2)?\.jpg", output) for output in outputs)


def test_a_name_that_is_no_text_is_told_as_text(tmp_path: Path) -> None:
    """Half a surrogate pair is what Python makes of a stray byte, and no JSON to other readers."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"M\xfcller \xc3\xbc.png")).write_bytes(b"")

    (entry,) = json_of(tmp_path / "in", tmp_path / "out")["files"]

    assert entry["file"] == "M\\xfcller ü.png"


def test_a_second_run_overwrites_nothing(folder: Path, tmp_path: Path) -> None:
    astronaut = folder / "astronaut.png"
    once = json_of(astronaut, tmp_path)["files"][0]["output"]
    (tmp_path / once).write_bytes(b"mine")

    again = json_of(astronaut, tmp_path)["files"][0]["output"]

    assert again == once.replace(".", "-2.")
    assert (tmp_path / once).read_bytes() == b"mine"


def test_a_file_that_cannot_be_written_costs_no_other_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder fills with the second of three; what it held of that one is taken away."""
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.png").write_bytes(samples.encode(samples.noise(40, ord(name))))
    write, asked = command._write_one, []

    def full(content: bytes, output: Path, base: str, suffix: str) -> str:
        asked.append(base)
        if len(asked) == 2:
            raise OSError(errno.ENOSPC, "no space left")
        return write(content, output, base, suffix)

    monkeypatch.setattr(command, "_write_one", full)
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 released files could not be written"):
        call_command("deidentify", tmp_path / "in", output=tmp_path / "out", json=True, stdout=out)

    files = json.loads(out.getvalue())["files"]
    assert [(entry["verdict"], entry["reason"]) for entry in files] == [
        ("released", None),
        ("rejected", "not_written"),
        ("released", None),
    ]
    assert files[1]["output"] is None


def test_an_object_that_cannot_be_written_takes_its_picture_along(tmp_path: Path) -> None:
    """Names too long for a file system stand in for a full one."""
    base = "x" * 251

    assert command._write({"jpg": b"picture", "dicom": b"object"}, tmp_path, base) is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_failing_detector_ends_is_reported_up_to_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.png").write_bytes(samples.encode(samples.noise(40, 40)))
    look = command.deidentify_content

    def once(*arguments: Any) -> Any:
        monkeypatch.setattr(command, "deidentify_content", refuse)
        return look(*arguments)

    def refuse(*_: Any) -> Any:
        raise ServicesUnavailable("the decoder is gone")

    monkeypatch.setattr(command, "deidentify_content", once)
    out = io.StringIO()
    with pytest.raises(CommandError, match="the decoder is gone"):
        call_command("deidentify", tmp_path / "in", output=tmp_path / "out", json=True, stdout=out)

    assert [entry["file"] for entry in json.loads(out.getvalue())["files"]] == ["a.png"]


def test_a_refusal_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    ran = run("/nowhere/at/all", "--output", tmp_path / "out", "--json")

    assert ran.returncode == 1
    assert ran.stdout == ""
    assert len(ran.stderr.strip().splitlines()) == 1


def test_an_unknown_profile_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="no profile named 'careless'"):
        call_command("deidentify", folder, output=tmp_path / "out", profile="careless")

    assert not (tmp_path / "out").exists()


def test_the_output_may_not_lie_in_the_folder_that_is_read(folder: Path) -> None:
    with pytest.raises(CommandError, match="outside"):
        call_command("deidentify", folder, output=folder / "deep")


def test_a_dicom_object_comes_out_de_identified_beside_its_picture(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "slice.dcm").write_bytes(samples.dicom("CT_small.dcm"))

    result = run(tmp_path / "in", "--output", tmp_path / "out", "--json")

    (entry,) = json.loads(result.stdout)["files"]
    written = (tmp_path / "out" / entry["dicom"]).read_bytes()
    assert Path(entry["output"]).stem == Path(entry["dicom"]).stem
    assert entry["tags"]["uid_mapped"] > 3
    assert b"CompressedSamples" not in written


def test_a_key_file_decides_which_identifiers_come_out(tmp_path: Path) -> None:
    (tmp_path / "slice.dcm").write_bytes(samples.dicom("CT_small.dcm"))
    outputs = []
    for number, name in enumerate(("one", "one", "other")):
        key = tmp_path / f"{name}.key"
        keys.create_key_file(key)
        output = tmp_path / f"out{number}"
        call_command("deidentify", tmp_path / "slice.dcm", output=output, key_file=key, json=True)
        (named,) = output.glob("*.dcm")
        outputs.append((named.name, named.read_bytes()))

    assert outputs[0] == outputs[1]
    assert outputs[0][0] != outputs[2][0]
    assert outputs[0][1] != outputs[2][1]


def test_a_report_comes_out_as_an_object_and_no_picture(tmp_path: Path) -> None:
    (tmp_path / "report.dcm").write_bytes(samples.dicom("reportsi.dcm"))

    result = run(tmp_path / "report.dcm", "--output", tmp_path / "out", "--json")

    (entry,) = json.loads(result.stdout)["files"]
    assert (entry["verdict"], entry["output"]) == ("released", None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [entry["dicom"]]


@pytest.mark.parametrize("at_once", [32, 1])
def test_a_later_frame_that_a_person_must_see_holds_the_whole_object_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However few frames are looked at together: a large one comes alone, and so may the last."""
    monkeypatch.setattr(stored, "_MAX_FRAMES_AT_ONCE", at_once)
    monkeypatch.setattr(pixels, "_LOOKED_AT_PIXELS", at_once)
    frames = deidentify_frames(np.zeros((2, 64, 64, 3), np.uint8), *clinical())
    monkeypatch.setattr(
        command,
        "deidentify_frames",
        lambda *_: replace(frames, verdict="review", reason=Reason.TEXT_STILL_FOUND),
    )
    (tmp_path / "loop.dcm").write_bytes(samples.dicom("SC_rgb_rle_2frame.dcm"))

    out = io.StringIO()
    call_command(
        "deidentify",
        tmp_path / "loop.dcm",
        output=tmp_path / "out",
        profile="clinical",
        key_file=a_key_file(tmp_path),
        json=True,
        stdout=out,
    )

    (entry,) = json.loads(out.getvalue())["files"]
    assert (entry["verdict"], entry["reason"]) == ("review", "text_still_found")
    assert list((tmp_path / "out").iterdir()) == []


def test_boxes_of_a_very_large_picture_are_in_its_own_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = []
    for whole in (512 * 512, 512 * 512 - 1):
        monkeypatch.setattr(sandbox, "WHOLE_PIXELS", whole)
        out = io.StringIO()
        call_command(
            "deidentify",
            samples.PICTURES / "astronaut.png",
            output=tmp_path / f"{whole}",
            key_file=a_key_file(tmp_path),
            json=True,
            stdout=out,
        )
        (entry,) = json.loads(out.getvalue())["files"]
        boxes.append(np.array(entry["faces"][0]["box"]))
        with Image.open(tmp_path / f"{whole}" / entry["output"]) as written_:
            assert written_.size == ((512, 512) if whole == 512 * 512 else (256, 256))

    assert np.abs(boxes[0] - boxes[1]).max() < 12


@pytest.mark.parametrize("profile", ["clinical", "photographs"])
def test_a_profile_decides_whether_writing_leaves(tmp_path: Path, profile: str) -> None:
    plain = np.full((200, 320, 3), 30, np.uint8)
    burned = written(plain, "MUELLER, Jane", (30, 40), size=24)
    scan = dcmread(samples.DICOM_FILES / "MR_small.dcm")
    scan.Rows, scan.Columns, scan.BitsAllocated, scan.BitsStored, scan.HighBit = 200, 320, 8, 8, 7
    scan.PixelRepresentation, scan.PixelData = 0, burned[..., 0].tobytes()
    scan["PixelData"].VR = "OB"
    scan.WindowCenter, scan.WindowWidth, scan.BurnedInAnnotation = 128, 256, "YES"
    (tmp_path / "in").mkdir()
    Image.fromarray(burned).save(tmp_path / "in" / "label.png")
    scan.save_as(tmp_path / "in" / "scan.dcm")

    ran = run(tmp_path / "in", "--output", tmp_path / "out", "--profile", profile, "--json")

    label, slice_ = json.loads(ran.stdout)["files"]
    ink = burned[..., 0] > 128
    shown = decode((tmp_path / "out" / label["output"]).read_bytes()).pixels
    if profile == "clinical":
        assert [entry["verdict"] for entry in (label, slice_)] == ["released"] * 2
        for entry in (label, slice_):
            assert {text["kind"] for text in entry["text"]} == {"text"}
        assert not (shown[ink] > 60).any()
        left = dcmread(tmp_path / "out" / slice_["dicom"])
        assert (left.pixel_array[ink] == 30).all()  # the darkest value it has
        assert b"MUELLER" not in ran.stdout.encode()
    else:
        assert (label["verdict"], label["text"]) == ("released", [])
        assert (shown[ink] > 60).mean() > 0.9
        assert (slice_["verdict"], slice_["reason"]) == ("review", "may_carry_burned_in_text")
        assert slice_["output"] is slice_["dicom"] is None
