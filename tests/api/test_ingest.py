import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from retrieval import access, receive, storage, tokens, uploads
from retrieval.errors import AccessDenied
from retrieval.models import (
    Collection,
    IdempotentAnswer,
    Image,
    ImportBatch,
    Kind,
    Purpose,
    Role,
    Scope,
    ServiceAccount,
    Stage,
    Upload,
    Work,
)
from retrieval.storage import Form
from tests import database
from tests.api.conftest import with_token
from tests.factories import grant, make_account, make_collection, make_token, png
from tests.web.conftest import Log

PART = uploads.MIN_PART_BYTES
NOBODYS = "00000000-0000-4000-8000-000000000000"


def start(program: Client, collection: Collection) -> str:
    answer = program.post(
        "/api/v1/imports", {"collection": collection.pk}, content_type="application/json"
    )
    assert answer.status_code == 201, answer.content
    return str(answer.json()["job"])


def send(program: Client, job: str, *files: tuple[str, bytes], key: str = "") -> Any:
    form = {"files": [SimpleUploadedFile(name, content) for name, content in files]}
    headers = {"Idempotency-Key": key} if key else {}
    return program.post(f"/api/v1/imports/{job}/files", form, headers=headers)


def announce(program: Client, job: str, size: int, name: str = "meier.png") -> Any:
    return program.post(
        f"/api/v1/imports/{job}/uploads",
        {"name": name, "size": size},
        content_type="application/json",
    )


def patch(program: Client, upload: str, offset: int, content: bytes) -> Any:
    return program.generic(
        "PATCH",
        f"/api/v1/uploads/{upload}",
        content,
        "application/octet-stream",
        headers={"Upload-Offset": str(offset)},
    )


def large_png(size: int = 2 * PART + 1000) -> bytes:
    """A picture with an end that no decoder reads, so that it is as large as need be."""
    content = png()
    return content + b"\0" * (size - len(content))


def test_files_that_are_handed_in_are_stored_sealed_and_their_work_is_due(
    program: Client, collection: Collection, account: ServiceAccount, log: Log
) -> None:
    job = start(program, collection)

    told = send(program, job, ("meier.png", png()), ("notes.txt", b"hello")).json()["files"]

    assert [(f["state"], f["reason"]) for f in told] == [
        ("received", None),
        ("rejected", "not_an_image"),
    ]
    actor = tokens.let_in(make_token(account, collection)[1])
    with access.acting_as(actor, Purpose.TREATMENT):
        image = Image.objects.get(pk=told[0]["image"])
        assert Work.objects.get(image=image).stage == Stage.DEIDENTIFY
    assert storage.source_name(image) == "meier.png"
    assert png() not in storage.path_of(image.pk, Form.ORIGINAL).read_bytes()
    program.post(f"/api/v1/imports/{job}/finish")
    assert log(Kind.IMPORT_FINISHED)[-1] == {
        "batch": job,
        "received": 1,
        "refused": 1,
        "reports": 0,
        "token": log(Kind.IMPORT_STARTED)[-1]["token"],
    }


def test_a_single_file_is_an_import_of_its_own(program: Client, collection: Collection) -> None:
    form = {"file": SimpleUploadedFile("x.png", png())}
    told = program.post(f"/api/v1/collections/{collection.pk}/images", form).json()

    progress = program.get(f"/api/v1/jobs/{told['job']}").json()
    assert (progress["received"], progress["pending"], progress["done"]) == (1, 1, False)
    status = program.get(f"/api/v1/images/{told['files'][0]['image']}").json()
    assert status["state"] == "received"


def test_a_file_brings_its_report_which_is_told_of_as_a_second_file(
    program: Client, collection: Collection, log: Log
) -> None:
    def sent(picture: bytes, report: bytes) -> list[tuple[str, bool, str | None]]:
        form = {
            "file": SimpleUploadedFile("x.png", picture),
            "report": SimpleUploadedFile("x.txt", report),
        }
        told = program.post(f"/api/v1/collections/{collection.pk}/images", form).json()["files"]
        return [(each["state"], each["duplicate"], each["reason"]) for each in told]

    assert sent(png(), b"no fracture") == [("received", False, None)] * 2
    assert log(Kind.IMPORT_FINISHED)[-1]["reports"] == 1
    assert sent(png(), b"no fracture") == [("received", True, None)] * 2
    assert sent(png(), b"\xff")[1] == ("rejected", False, "not_a_text")
    assert sent(b"no picture", b"no fracture")[1] == ("rejected", False, "report_without_picture")


def test_a_file_that_the_collection_has_is_no_second_image(
    program: Client, collection: Collection
) -> None:
    job = start(program, collection)
    first, second = send(program, job, ("a.png", png()), ("b.png", png())).json()["files"]

    assert first["image"] == second["image"]
    assert (first["duplicate"], second["duplicate"]) == (False, True)


def test_a_request_under_one_key_is_carried_out_once(
    program: Client, collection: Collection, account: ServiceAccount
) -> None:
    def opened(key: str, collection_id: int = collection.pk) -> Any:
        return program.post(
            "/api/v1/imports",
            {"collection": collection_id},
            content_type="application/json",
            headers={"Idempotency-Key": key},
        )

    first, again, other = opened("one"), opened("one"), opened("two")

    assert first.json() == again.json() != other.json()
    assert (first.status_code, again.status_code) == (201, 201)
    assert opened("one", collection.pk + 1).status_code == 404
    assert opened("é").status_code == 400
    job = first.json()["job"]
    sent = send(program, job, ("a.png", png()), key="files")
    assert send(program, job, ("a.png", png()), key="files").json() == sent.json()
    assert send(program, job, ("b.png", png()), key="files").status_code == 422


@pytest.mark.parametrize("ends", ["grant", "token"])
def test_an_answer_under_a_key_is_not_given_again_where_the_right_ended(
    program: Client, collection: Collection, account: ServiceAccount, ends: str
) -> None:
    elsewhere = make_collection()
    narrow = with_token(make_token(account, elsewhere)[1])

    def sent(client: Client) -> Any:
        url = f"/api/v1/collections/{collection.pk}/images"
        form = {"file": SimpleUploadedFile("a.png", png())}
        return client.post(url, form, headers={"Idempotency-Key": "one"})

    assert sent(program).status_code == 200
    if ends == "grant":
        account.grant_set.all().delete()

    again = sent(program if ends == "grant" else narrow)

    assert again.status_code == 404
    assert "image" not in again.json()


def test_a_request_that_failed_under_a_key_may_be_made_again(
    program: Client, collection: Collection, account: ServiceAccount
) -> None:
    account.grant_set.update(role=Role.VIEWER)
    body = json.dumps({"collection": collection.pk})
    key = {"Idempotency-Key": "one"}
    path, kind = "/api/v1/imports", "application/json"
    assert program.generic("POST", path, body, kind, headers=key).status_code == 404

    account.grant_set.update(role=Role.CURATOR)
    assert program.generic("POST", path, body, kind, headers=key).status_code == 201


def test_the_same_request_at_the_same_time_waits(
    program: Client, collection: Collection, account: ServiceAccount, superuser: Any
) -> None:
    body = json.dumps({"collection": collection.pk})
    key = {"Idempotency-Key": "one"}
    path, kind = "/api/v1/imports", "application/json"
    program.generic("POST", path, body, kind, headers=key)
    superuser.execute("UPDATE retrieval_idempotentanswer SET answer = NULL")

    assert program.generic("POST", path, body, kind, headers=key).status_code == 409
    superuser.execute("UPDATE retrieval_idempotentanswer SET asked_at = now() - interval '11 min'")
    assert program.generic("POST", path, body, kind, headers=key).status_code == 201


def test_a_large_file_comes_in_part_by_part_and_goes_on_where_it_stopped(
    program: Client, collection: Collection
) -> None:
    content = large_png()
    upload = announce(program, start(program, collection), len(content)).json()["upload"]

    assert patch(program, upload, 0, content[:PART]).json()["received"] == PART
    lost = patch(program, upload, 0, content[:PART])
    assert (lost.status_code, lost.headers["Upload-Offset"]) == (409, str(PART))
    assert program.post(f"/api/v1/uploads/{upload}/finish").status_code == 409
    assert program.get(f"/api/v1/uploads/{upload}").json()["received"] == PART
    assert patch(program, upload, PART, content[PART : 2 * PART]).status_code == 200
    assert patch(program, upload, 2 * PART, content[2 * PART :]).status_code == 200

    told = program.post(f"/api/v1/uploads/{upload}/finish").json()
    assert told["files"][0]["image"] is not None
    assert program.post(f"/api/v1/uploads/{upload}/finish").json() == told
    job = program.get(f"/api/v1/jobs/{told['job']}").json()
    assert job["received"] == 1
    assert not list(Path(settings.CLOISTER_STORE).glob("uploads/*/*"))


def test_a_whole_upload_is_the_same_image_as_the_file_sent_at_once(
    program: Client, collection: Collection
) -> None:
    content, job = large_png(), start(program, collection)
    upload = announce(program, job, len(content)).json()["upload"]
    for offset in range(0, len(content), PART):
        patch(program, upload, offset, content[offset : offset + PART])

    by_parts = program.post(f"/api/v1/uploads/{upload}/finish").json()["files"][0]
    at_once = send(program, job, ("meier.png", content)).json()["files"][0]

    assert at_once["image"] == by_parts["image"]
    assert at_once["duplicate"]


def test_parts_lie_in_the_store_sealed(program: Client, collection: Collection) -> None:
    content = large_png()
    upload = announce(program, start(program, collection), len(content)).json()["upload"]
    patch(program, upload, 0, content[:PART])

    (part,) = Path(settings.CLOISTER_STORE).glob("uploads/*/*.part")
    assert b"\x89PNG" not in part.read_bytes()
    assert part.stat().st_mode & 0o077 == 0
    assert program.delete(f"/api/v1/uploads/{upload}").status_code == 204
    assert not part.exists()
    assert program.get(f"/api/v1/uploads/{upload}").status_code == 404


@pytest.mark.parametrize(
    ("offset", "length", "status"), [(0, 10, 422), (0, 0, 422), (0, 3 * PART, 422), (5, PART, 409)]
)
def test_parts_are_in_order_and_of_a_fitting_size(
    offset: int, length: int, status: int, program: Client, collection: Collection
) -> None:
    upload = announce(program, start(program, collection), 2 * PART + 1000).json()["upload"]

    assert patch(program, upload, offset, b"\0" * length).status_code == status


def test_what_is_turned_away_leaves_nothing_behind(program: Client, collection: Collection) -> None:
    job = start(program, collection)
    upload = announce(program, job, PART).json()["upload"]
    patch(program, upload, 0, b"x" * PART)

    refused = program.post(f"/api/v1/uploads/{upload}/finish")

    assert (refused.status_code, refused.json()["reason"]) == (422, "not_an_image")
    assert program.get(f"/api/v1/jobs/{job}").json()["refused"] == 1
    assert not list(Path(settings.CLOISTER_STORE).glob("uploads/*/*"))
    assert announce(program, job, PART, name="a\nb.png").status_code == 422
    assert announce(program, job, receive.MAX_FILE_BYTES + 1).status_code == 422


def test_a_name_that_could_fool_a_reader_comes_in_without_its_marks_or_not_at_all(
    program: Client, collection: Collection, account: ServiceAccount
) -> None:
    """A form's names lose them in Django's parser; one that is announced is refused."""
    name = "a\u202egnp.exe"
    file = SimpleUploadedFile(name, png())

    answer = program.post(f"/api/v1/collections/{collection.pk}/images", {"file": file})

    actor = tokens.let_in(make_token(account, collection)[1])
    with access.acting_as(actor, Purpose.TREATMENT):
        image = Image.objects.get(pk=answer.json()["files"][0]["image"])
    assert storage.source_name(image) == "agnp.exe"
    assert announce(program, start(program, collection), PART, name=name).status_code == 422


def test_an_empty_file_is_told_as_one(program: Client, collection: Collection) -> None:
    job, empty = start(program, collection), ("a.png", b"")
    single = SimpleUploadedFile(*empty)

    answers = [
        send(program, job, empty),
        program.post(f"/api/v1/collections/{collection.pk}/images", {"file": single}),
    ]
    assert [a.status_code for a in answers] == [200, 200]
    assert [a.json()["files"][0]["reason"] for a in answers] == ["empty_file"] * 2


def test_an_upload_ends_with_the_right_to_hand_in(
    program: Client, collection: Collection, account: ServiceAccount
) -> None:
    content = large_png()
    upload = announce(program, start(program, collection), len(content)).json()["upload"]
    account.grant_set.update(role=Role.SEARCHER)

    assert patch(program, upload, 0, content[:PART]).status_code == 404
    assert program.post(f"/api/v1/uploads/{upload}/finish").status_code == 404


def test_uploads_that_nobody_finished_are_given_up(
    program: Client, collection: Collection, superuser: Any
) -> None:
    job = start(program, collection)
    upload = announce(program, job, 2 * PART).json()["upload"]
    patch(program, upload, 0, large_png()[:PART])
    superuser.execute("UPDATE retrieval_upload SET expires_at = now() - interval '1 hour'")
    going_on = announce(program, job, 2 * PART).json()["upload"]
    patch(program, going_on, 0, large_png()[:PART])

    assert program.get(f"/api/v1/uploads/{upload}").status_code == 404
    with database.role("worker"):
        assert uploads.sweep() == 1
        assert uploads.sweep() == 0

    (left,) = Path(settings.CLOISTER_STORE).glob("uploads/*")
    assert left.name == UUID(going_on).hex
    assert program.get(f"/api/v1/uploads/{going_on}").json()["received"] == PART


def test_the_reconciler_sweeps_unfinished_uploads(
    program: Client, collection: Collection, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(program, start(program, collection), PART)
    superuser.execute("UPDATE retrieval_upload SET expires_at = now() - interval '1 hour'")

    def one_round(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("appliance.management.commands.reconcile.time.sleep", one_round)
    with database.role("worker"), pytest.raises(KeyboardInterrupt):
        call_command("reconcile")
    assert superuser.execute("SELECT count(*) FROM retrieval_upload").fetchone() == (0,)


def test_others_imports_uploads_and_answers_are_not_there(
    program: Client, collection: Collection
) -> None:
    job = start(program, collection)
    upload = announce(program, job, PART).json()["upload"]
    other = make_account()
    grant(other, collection, Role.CURATOR)
    stranger = with_token(make_token(other, collection)[1])

    for path in ("jobs/{}", "jobs/{}/files"):
        answers = [stranger.get(f"/api/v1/{path.format(i)}") for i in (job, NOBODYS)]
        assert [a.status_code for a in answers] == [404, 404]
        assert answers[0].content == answers[1].content
    answers = [send(stranger, i, ("a.png", png())) for i in (job, NOBODYS)]
    assert [a.status_code for a in answers] == [404, 404]
    answers = [stranger.get(f"/api/v1/uploads/{i}") for i in (upload, NOBODYS)]
    assert [a.status_code for a in answers] == [404, 404]
    assert stranger.get("/api/v1/jobs").json()["items"] == []
    actor = tokens.let_in(make_token(other, collection)[1])
    with access.acting_as(actor, Purpose.TREATMENT):
        assert not Upload.objects.exists()
        assert not IdempotentAnswer.objects.exists()
    with pytest.raises(AccessDenied):
        uploads.find(Upload(pk=upload).pk, actor=actor, purpose=Purpose.TREATMENT)


def test_foreign_and_missing_collections_take_nothing_in_and_answer_alike(
    program: Client, collection: Collection, log: Log
) -> None:
    foreign = make_collection()
    answers = [
        program.post("/api/v1/imports", {"collection": i}, content_type="application/json")
        for i in (foreign.pk, 999_999)
    ]

    assert [a.status_code for a in answers] == [404, 404]
    assert answers[0].content == answers[1].content
    assert [e["collection"] for e in log(Kind.IMPORT_DENIED)] == [foreign.pk, 999_999]


def test_before_it_is_indexed_only_who_hands_in_learns_of_an_image(
    program: Client, collection: Collection, account: ServiceAccount
) -> None:
    told = send(program, start(program, collection), ("a.png", png())).json()["files"][0]
    url = f"/api/v1/images/{told['image']}"
    assert program.get(url).json()["state"] == "received"

    account.grant_set.update(role=Role.SEARCHER)
    assert program.get(url).status_code == 404
    searches_only = with_token(make_token(account, collection, scopes=[Scope.STATUS])[1])
    assert searches_only.get(url).status_code == 404


def test_jobs_and_their_files_are_listed_page_by_page(
    program: Client, collection: Collection, log: Log
) -> None:
    ids = [start(program, collection) for _ in range(3)]
    send(program, ids[0], *((f"{n}.png", png(32 + n)) for n in range(3)))

    first = program.get("/api/v1/jobs?limit=2").json()
    rest = program.get(f"/api/v1/jobs?limit=2&cursor={first['next']}").json()
    assert [j["job"] for j in first["items"] + rest["items"]] == ids[::-1]
    page = program.get(f"/api/v1/jobs/{ids[0]}/files?limit=2").json()
    more = program.get(f"/api/v1/jobs/{ids[0]}/files?cursor={page['next']}").json()
    files = page["items"] + more["items"]
    assert len({f["image"] for f in files}) == 3
    assert len(log(Kind.IMAGES_LISTED)[-1]["images"]) == 1


def test_names_of_files_come_back_in_no_answer(program: Client, collection: Collection) -> None:
    job = start(program, collection)
    answers = [
        send(program, job, ("meier.png", png()), ("meier.txt", b"x")),
        announce(program, job, PART, name="meier.png"),
        program.get(f"/api/v1/jobs/{job}/files"),
    ]
    assert not any(b"meier" in answer.content for answer in answers)


def test_expired_answers_are_forgotten(
    program: Client, collection: Collection, superuser: Any
) -> None:
    def opened() -> Any:
        return program.post(
            "/api/v1/imports",
            {"collection": collection.pk},
            content_type="application/json",
            headers={"Idempotency-Key": "one"},
        ).json()

    first = opened()
    long_ago = timezone.now() - timedelta(days=2)
    superuser.execute("UPDATE retrieval_idempotentanswer SET asked_at = %s", [long_ago])
    assert opened() != first
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM retrieval_idempotentanswer")
        assert cursor.fetchone() == (0,)  # without context, no rows
    assert not ImportBatch.objects.exists()
