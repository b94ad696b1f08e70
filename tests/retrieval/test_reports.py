"""Reports on their way in: which text is whose, what is turned away, and where it is kept."""

import io
import zipfile
from pathlib import Path

import psycopg
import pytest

from retrieval import access, outbox, receive, reports, storage
from retrieval.errors import AccessDenied, Reason, Rejected
from retrieval.models import (
    Collection,
    Image,
    ImportBatch,
    Purpose,
    Report,
    Role,
    Stage,
    State,
    User,
    Work,
)
from retrieval.receive import Candidate, Refusal
from retrieval.storage import Form
from tests import database
from tests.factories import grant, make_collection, make_image, make_user, operator, png

pytestmark = pytest.mark.usefixtures("db")

PICTURE = png()
FILES = {
    "a.png": PICTURE,
    "a.txt": b"of a",
    "B.jpg.png": PICTURE,
    "B.jpg.TXT": b"of b",
    "c.json": b"{}",
    "c.png": PICTURE,
    "c.txt": b"of c",
    "two.jpg": PICTURE,
    "two.png": PICTURE,
    "two.txt": b"of which?",
    "alone.txt": b"of nothing",
    "beside.json": b"{}",
    "beside.txt": b"of no picture",
    "film.mp4": b"\0\0\0\x18ftypisom",
    "film.txt": b"of many pictures",
    "sub/a.txt": b"elsewhere",
}


def in_a_folder(files: dict[str, bytes], path: Path) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content)
    return path


def in_an_archive(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path / "all.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path / "all.zip"


@pytest.mark.parametrize("put", [in_a_folder, in_an_archive])
def test_a_text_beside_exactly_one_picture_of_its_name_is_its_report(
    put: object, tmp_path: Path
) -> None:
    items = {
        item.name.removeprefix("all.zip/"): item.reason
        if isinstance(item, Refusal)
        else item.report and item.report.name.removeprefix("all.zip/")
        for item in receive.walk(put(FILES, tmp_path))  # type: ignore[operator]
    }

    assert items == {
        "a.png": "a.txt",
        "B.jpg.png": "B.jpg.TXT",
        "c.json": None,
        "c.png": "c.txt",
        "two.jpg": None,
        "two.png": None,
        "two.txt": Reason.AMBIGUOUS_REPORT,
        "alone.txt": None,
        "beside.json": None,
        "beside.txt": None,
        "film.mp4": None,
        "film.txt": None,
        "sub/a.txt": None,
    }


def test_of_members_with_one_name_in_an_archive_none_is_or_has_a_report(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("a.png", "a.txt", "b.png", "b.txt"):
            archive.writestr(name, PICTURE if name.endswith("png") else b"first")
        for name, content in (("a.txt", b"second"), ("b.png", PICTURE)):
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr(name, content)

    items = list(receive.walk(tmp_path / "all.zip"))

    assert [i.report for i in items if isinstance(i, Candidate)] == [None] * 3
    assert [(i.name, i.reason) for i in items if isinstance(i, Refusal)] == [
        (f"all.zip/{name}", Reason.AMBIGUOUS_REPORT) for name in ("a.txt", "b.txt", "a.txt")
    ]


def test_a_link_out_of_the_folder_is_nobody_s_report(tmp_path: Path) -> None:
    in_a_folder({"a.png": PICTURE}, tmp_path)
    (tmp_path / "a.txt").symlink_to("/etc/passwd")

    picture, text = receive.walk(tmp_path)

    assert isinstance(picture, Candidate)
    assert picture.report is None
    assert text == Refusal("a.txt", Reason.UNREADABLE_FILE)


def attach(
    image: Image | None,
    content: bytes,
    *,
    name: str = "a.txt",
    actor: User | None = None,
    purpose: Purpose = Purpose.ADMINISTRATION,
    batch: ImportBatch | None = None,
) -> bool:
    if batch is None:
        collection = make_collection() if image is None else image.collection
        batch = receive.start_batch(collection, actor=operator(), purpose=Purpose.ADMINISTRATION)
    text = Candidate(name, lambda: io.BytesIO(content))
    return reports.attach(image, text, batch, actor=actor or operator(), purpose=purpose)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"\xef\xbb\xbf \n", Reason.EMPTY_FILE),
        (b"Erg\xfcsse", Reason.NOT_A_TEXT),
        ("Ergüsse".encode("utf-16"), Reason.NOT_A_TEXT),
        (b"a\0b", Reason.NOT_A_TEXT),
        (b"a" * (64 * 1024 + 1), Reason.FILE_TOO_LARGE),
    ],
)
def test_what_is_no_text_of_up_to_64_kib_is_no_report(content: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as refused:
        attach(make_image(make_collection()), content)

    assert refused.value.reason == reason


def test_a_report_of_a_picture_that_was_turned_away_is_turned_away() -> None:
    with pytest.raises(Rejected) as refused:
        attach(None, b"no fracture")

    assert refused.value.reason == Reason.REPORT_WITHOUT_PICTURE


def test_a_report_is_sealed_and_goes_when_its_picture_goes() -> None:
    image = make_image(make_collection(), state=State.RECEIVED)

    assert attach(image, b"John Smith has no fracture")

    path = storage.path_of(image.pk, Form.REPORT_ORIGINAL)
    assert b"Smith" not in path.read_bytes()
    assert storage.read(image, Form.REPORT_ORIGINAL) == b"John Smith has no fracture"
    storage.remove(image.pk)
    assert not path.exists()


def due(image: Image) -> list[str]:
    with database.role("worker"):
        return list(Work.objects.filter(image_id=image.pk).values_list("stage", flat=True))


def test_a_report_is_due_once_its_picture_is_found_and_not_before() -> None:
    image = make_image(make_collection(), state=State.DEIDENTIFIED)
    attach(image, b"no fracture")
    assert due(image) == []

    with database.role("worker"), access.processing(image.collection_id):
        outbox.settle(image, State.INDEXED)

    assert due(image) == [Stage.REPORT]


def test_the_same_report_changes_nothing_and_another_takes_its_place() -> None:
    image = make_image(make_collection())
    assert attach(image, b"no fracture")
    with database.role("worker"):
        claimed = outbox.claim(Work.objects.get().pk)
        assert claimed is not None

    assert not attach(image, b"no fracture")
    assert attach(image, b"a fracture")

    with database.role("worker"):
        with pytest.raises(Exception, match="taken over"), outbox.settling(claimed):
            pass
        assert outbox.claim(Work.objects.get().pk) is not None
    assert storage.read(image, Form.REPORT_ORIGINAL) == b"a fracture"


def test_equal_pictures_with_different_reports_in_one_import_keep_the_first_alone() -> None:
    image = make_image(make_collection())
    batch = receive.start_batch(image.collection, actor=operator(), purpose=Purpose.ADMINISTRATION)

    assert attach(image, b"no fracture", batch=batch)
    assert not attach(image, b"no fracture", batch=batch)
    with pytest.raises(Rejected) as refused:
        attach(image, b"a fracture", batch=batch)

    assert refused.value.reason == Reason.AMBIGUOUS_REPORT
    assert storage.read(image, Form.REPORT_ORIGINAL) == b"no fracture"


@pytest.mark.parametrize("role", [Role.SEARCHER, Role.REVIEWER])
def test_who_may_not_ingest_attaches_no_report_and_sees_no_row_of_one(role: Role) -> None:
    user, image = make_user(), make_image(make_collection())
    attach(image, b"no fracture")
    grant(user, image.collection, role)

    with pytest.raises(AccessDenied):
        attach(image, b"a fracture", actor=user, purpose=Purpose.TREATMENT)

    with access.acting_as(user, Purpose.TREATMENT):
        assert Image.objects.filter(pk=image.pk).exists()
        assert not Report.objects.exists()
        assert not Report.objects.filter(pk=image.pk).update(passages=1)


def test_a_worker_sees_the_reports_of_the_collection_it_works_on_alone(
    superuser: psycopg.Connection[tuple[object, ...]],
) -> None:
    mine, other = (make_image(make_collection()) for _ in range(2))
    for image in (mine, other):
        attach(image, b"no fracture")

    with database.role("worker"), access.processing(mine.collection_id):
        assert [report.pk for report in Report.objects.all()] == [mine.pk]
    assert {c.has_reports for c in Collection.objects.all()} == {True}
