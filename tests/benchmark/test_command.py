"""`manage.py benchmark` measures without public data too, and says that there is none."""

import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from pytest_django.plugin import DjangoDbBlocker

from retrieval import access
from retrieval.models import Purpose, ReviewBox, Role, Source, State
from tests import database
from tests.factories import grant, make_collection, make_image, operator
from workers.benchmark import confident, deidentify, encode, ways, whole
from workers.benchmark.table import Setting
from workers.encode.device import best_device
from workers.encode.registry import CLASSIC, load


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
    assert [row["cover"] for row in tables["after covering"]] == ["solid", "mosaic"]
    assert {row["code"] for row in tables["codes in pictures"]} == {
        "QR code",
        "Data Matrix",
        "Code 128",
    }
    actions = {row["action"]: row["share"] for row in tables["DICOM headers, by action"]}
    assert actions["text_removed"] == actions["uid_changed"] == 1.0
    hidden, retained = tables["words burned into DICOM pixels"]
    assert (hidden["action"], hidden["share"], retained["share"]) == ("pixels_hidden", 1, 1)
    for row in tables["broken files"]:
        assert row["pixels"] + row["one typed reason"] == row["tried"] == 1  # type: ignore[operator]


@pytest.mark.usefixtures("db")
def test_a_profile_is_judged_by_what_its_reviewers_released() -> None:
    collection = make_collection()
    image = make_image(collection, state=State.DEIDENTIFIED, render=1, width=64, height=64)
    grant(operator(), collection, Role.REVIEWER, Purpose.ADMINISTRATION)
    reviewer = operator()
    with database.role("worker"), access.processing(collection.pk):
        for box, source, by in (
            ([1, 1, 9, 9], Source.DETECTOR, None),
            ([40, 40, 9, 9], Source.REVIEWER, reviewer),
        ):
            ReviewBox.objects.create(
                image=image,
                collection=collection,
                kind="face",
                box=box,
                source=source,
                render=1,
                decided_by=by,
            )

    table = deidentify.reviewed(collection.profile, operator())

    faces = table.rows[0]
    assert (faces["kind"], faces["found"], faces["missed"], faces["recall"]) == ("face", 1, 1, 0.5)


def test_the_encoder_s_tables_of_what_needs_no_export_are_measured(tmp_path: Path) -> None:
    """The whole takes minutes: networks are made, exported and quantised."""
    encoder = load(CLASSIC)
    files, source = encode._files(Setting(tmp_path), 2)
    row = encode._throughput(encoder, files, best_device())
    times = {each["way"]: each["times"] for each in encode._unpacking(1, encoder).rows}

    assert "no flickr8k" in source
    assert all(row.values())
    assert list(times.values()) == [1] * 4


def test_small_things_are_looked_for_by_the_parts_of_what_wheels_bring(tmp_path: Path) -> None:
    tables, _ = measured("regions", tmp_path, 1)

    found = tables["small things, 25% of the shorter side"]
    assert {(row["asked by"], row["vectors of"]) for row in found} == {
        (kind, way) for kind in ("square", "scene") for way in ("whole", "corners")
    }
    assert [row["rows"] for row in tables["their cost, each image"]] == [1, 5]


def test_confidence_is_measured_with_and_without_parts() -> None:
    vectors = np.random.default_rng(0).normal(size=(120, 5, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    photographs, foreign = vectors[:60], vectors[60:, 0]
    captions = np.repeat(photographs[:, 0], confident.CAPTIONS, axis=0)
    encoded = confident.Encoded(photographs, captions, foreign, foreign, foreign)

    for rows in confident.WAYS.values():
        told = confident.confident(encoded, 40, rows)
        assert confident.ordinary(encoded, rows)["recall@1"] == 1
        assert told["confident"] == told["precision of these"] == 1
        assert told["foreign confident"] == 0


def test_the_index_is_measured_in_a_database_of_its_own_and_held_against_its_goals(
    tmp_path: Path, django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "QUERIES", 3)
    monkeypatch.setattr(whole, "REPEATS", 1)
    out, err = io.StringIO(), io.StringIO()
    # As in the background of a script: the scratch servers must stop there too.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with django_db_blocker.unblock():
            call_command(
                "benchmark", "index", data=tmp_path, rows=1000, json=True, stdout=out, stderr=err
            )
    finally:
        signal.signal(signal.SIGINT, before)

    tables = {table["title"]: table["rows"] for table in json.loads(out.getvalue())["tables"]}
    churned = tables["a twentieth of a collection churned (goal 8: recall at least 0.98 of fresh)"]
    assert [row["rows short"] for row in churned] == [0, 0, 0, 0]
    assert {row["by the index"] for row in churned} == {"yes"}
    dropped = tables["a collection's vectors dropped with their index"]
    assert all(row["seconds"] < 1 for row in dropped)
    assert {row["goal"] for row in tables["the goals"]} == set(range(1, 9))
    assert "building index 41 of 50" in err.getvalue()


@pytest.mark.parametrize(
    ("name", "files", "reason"),
    [("speed", 1, "no benchmark named 'speed'"), ("encode", 0, "at least 1")],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, name: str, files: int, reason: str
) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command("benchmark", name, data=tmp_path, files=files)


def test_an_import_is_measured_of_a_folder_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no such folder"):
        call_command("benchmark", "ingest", data=tmp_path, images=tmp_path / "none")
