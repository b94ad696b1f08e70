import io
import os
import zipfile
from pathlib import Path

import pytest
from django.conf import settings

from retrieval import access, receive, storage
from retrieval.errors import AccessDenied, Reason, Rejected
from retrieval.models import Image, Purpose, Role, State, Work
from retrieval.receive import Candidate, Refusal
from retrieval.storage import Form
from tests import database
from tests.factories import grant, make_collection, make_user, operator, png

pytestmark = pytest.mark.usefixtures("db")


def candidate(content: bytes, name: str = "a.png") -> Candidate:
    return Candidate(name, lambda: io.BytesIO(content))


def receive_one(content: bytes, name: str = "a.png") -> tuple[Image, bool]:
    collection = make_collection()
    batch = receive.start_batch(collection, actor=operator(), purpose=Purpose.ADMINISTRATION)
    return receive.receive(
        candidate(content, name), batch, actor=operator(), purpose=Purpose.ADMINISTRATION
    )


def test_a_picture_is_stored_encrypted_with_its_work_due() -> None:
    image, is_new = receive_one(png())

    assert is_new
    assert storage.read(image, Form.ORIGINAL) == png()
    assert png() not in storage.path_of(image.pk, Form.ORIGINAL).read_bytes()
    with database.role("worker"):
        assert Work.objects.get().image_id == image.pk


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"%PDF-1.7", Reason.NOT_AN_IMAGE),
        (b"#!/bin/sh\n", Reason.NOT_AN_IMAGE),
        (b"PK\x03\x04 a zip inside a zip", Reason.NOT_AN_IMAGE),
    ],
)
def test_what_is_no_picture_is_refused_with_one_reason_and_leaves_nothing(
    content: bytes, reason: Reason
) -> None:
    stored = set(Path(settings.CLOISTER_STORE).rglob("*.original"))

    with pytest.raises(Rejected) as refused:
        receive_one(content)

    assert refused.value.reason == reason
    assert set(Path(settings.CLOISTER_STORE).rglob("*.original")) == stored


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\nb.png", Reason.UNSAFE_NAME),
        ("a\u202egnp.exe", Reason.UNSAFE_NAME),
        ("x" * 4000, Reason.NAME_TOO_LONG),
    ],
)
def test_a_name_that_could_fool_a_reader_is_refused(name: str, reason: Reason) -> None:
    with pytest.raises(Rejected) as refused:
        receive_one(png(), name)

    assert refused.value.reason == reason


def test_the_same_file_twice_is_one_image() -> None:
    collection = make_collection()
    batch = receive.start_batch(collection, actor=operator(), purpose=Purpose.ADMINISTRATION)
    as_operator = {"actor": operator(), "purpose": Purpose.ADMINISTRATION}

    first, first_is_new = receive.receive(candidate(png()), batch, **as_operator)  # type: ignore[arg-type]
    again, again_is_new = receive.receive(candidate(png(), "b.png"), batch, **as_operator)  # type: ignore[arg-type]

    assert (first.pk, first_is_new) == (again.pk, True)
    assert not again_is_new


def test_equal_files_in_two_collections_cannot_be_told_to_be_equal() -> None:
    first, _ = receive_one(png())
    second, _ = receive_one(png())

    assert bytes(first.content_key) != bytes(second.content_key)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.SEARCHER, Role.REVIEWER])
def test_who_may_not_ingest_is_denied_on_the_log(role: Role) -> None:
    user, collection = make_user(), make_collection()
    grant(user, collection, role)

    with pytest.raises(AccessDenied):
        receive.start_batch(collection, actor=user, purpose=Purpose.TREATMENT)


def test_a_right_that_ends_during_an_import_ends_the_import() -> None:
    user, collection = make_user(), make_collection()
    given = grant(user, collection, Role.CURATOR)
    batch = receive.start_batch(collection, actor=user, purpose=Purpose.TREATMENT)
    given.delete()

    with pytest.raises(AccessDenied):
        receive.receive(candidate(png()), batch, actor=user, purpose=Purpose.TREATMENT)
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        assert not Image.objects.exists()


def walked(path: Path) -> dict[str, Reason | None]:
    return {
        item.name: item.reason if isinstance(item, Refusal) else None for item in receive.walk(path)
    }


def test_a_folder_is_walked_and_links_out_of_it_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(png())
    (tmp_path / "link.png").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.png")

    (tmp_path / "folder").symlink_to("/etc")

    assert walked(tmp_path) == {
        "folder": Reason.UNREADABLE_FILE,
        "link.png": Reason.UNREADABLE_FILE,
        "pipe.png": Reason.UNREADABLE_FILE,
        "sub/a.png": None,
    }


def test_an_archive_gives_its_members_and_refuses_those_that_lead_out(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("good.png", "../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\e.png"):
            archive.writestr(name, png())

    found = walked(path)

    assert [name for name, reason in found.items() if reason is None] == ["a.zip/good.png"]
    assert set(found.values()) == {None, Reason.UNSAFE_NAME}


def test_an_archive_of_zeros_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("zeros.png", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(1024 * 1024))
        archive.writestr("good.png", png())

    assert walked(path) == {
        "bomb.zip/zeros.png": Reason.FILE_TOO_LARGE,
        "bomb.zip/good.png": None,
    }


def test_a_damaged_archive_has_one_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", png())
    path.write_bytes(path.read_bytes()[:60])

    assert walked(path) == {"a.zip": Reason.ARCHIVE_DAMAGED}


def test_a_member_whose_bytes_were_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png())
    content = bytearray(path.read_bytes())
    content[80] ^= 1
    path.write_bytes(content)
    batch = receive.start_batch(make_collection(), actor=operator(), purpose=Purpose.ADMINISTRATION)

    for item in receive.walk(path):
        assert isinstance(item, Candidate)
        with pytest.raises(Rejected) as refused:
            receive.receive(item, batch, actor=operator(), purpose=Purpose.ADMINISTRATION)
        assert refused.value.reason == Reason.UNREADABLE_FILE


def test_a_folder_that_cannot_be_listed_is_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)

    assert walked(tmp_path) == {"closed": Reason.UNREADABLE_FILE}


def test_a_member_that_cannot_be_unpacked_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", png())
        archive.writestr("b.png", png(side=40))
    content = bytearray(path.read_bytes())
    content[60:70] = bytes(10)
    path.write_bytes(content)
    batch = receive.start_batch(make_collection(), actor=operator(), purpose=Purpose.ADMINISTRATION)

    outcomes: list[Reason | None] = []
    for item in receive.walk(path):
        assert isinstance(item, Candidate)
        try:
            receive.receive(item, batch, actor=operator(), purpose=Purpose.ADMINISTRATION)
        except Rejected as rejected:
            outcomes.append(rejected.reason)
        else:
            outcomes.append(None)
    assert outcomes == [Reason.UNREADABLE_FILE, None]


@pytest.mark.parametrize("name", ["Bild\u202fPM.png", "脊椎 MR.dcm", "Röntgen é.png"])
def test_names_as_people_write_them_are_taken(name: str) -> None:
    image, _ = receive_one(png(), name)

    assert storage.source_name(image) == name


def test_a_received_image_is_in_no_state_to_be_found() -> None:
    image, _ = receive_one(png())

    assert image.state == State.RECEIVED
