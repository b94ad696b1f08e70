"""Handing in: an import is opened, files come in, whole or part by part, and it is finished."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, cast
from uuid import UUID

from django.http import HttpResponse
from ninja import Field, File, Router, Schema
from ninja.files import UploadedFile
from pydantic import ConfigDict

from appliance.api.auth import ApiRequest, Token
from appliance.api.problems import problem
from retrieval import access, idempotent, receive, reports, storage, uploads
from retrieval.errors import AccessDenied, Reason, Rejected
from retrieval.models import Collection, Image, ImportBatch, Scope, State, Upload
from retrieval.models.grant import Capability
from retrieval.receive import MAX_NAME_CHARS, Candidate

router = Router(tags=["ingest"], auth=Token(Scope.INGEST))

MAX_ID: Final = 2**63 - 1
MAX_FILES: Final = 100
KEY_HEADER: Final = "Idempotency-Key"
MAX_KEY_CHARS: Final = 255
PART: Final = "application/octet-stream"

SAFE_NAME: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]*$"
"""No controls, line ends or direction marks: what `receive.checked_name` refuses."""

IDEMPOTENT: Final[dict[str, Any]] = {
    "parameters": [
        {
            "in": "header",
            "name": KEY_HEADER,
            "required": False,
            "description": "A key of your own: the request is carried out once in a day under it.",
            "schema": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_KEY_CHARS,
                "pattern": "^[!-~]+$",
            },
        }
    ]
}


class ImportIn(Schema):
    model_config = ConfigDict(extra="forbid")

    collection: int = Field(ge=1, le=MAX_ID)


class ImportOut(Schema):
    """`job`: the import's id, by which it is followed under /jobs."""

    job: UUID


class FileOut(Schema):
    """What became of one file at the door, in the order they were sent. Not its name.

    `image`: its id, where it was taken in. `duplicate`: the collection had it already.
    `reason`: why it was turned away.
    """

    index: int
    image: UUID | None
    state: str
    duplicate: bool
    reason: str | None


class FilesOut(Schema):
    job: UUID
    files: list[FileOut]


class UploadIn(Schema):
    """`size` in bytes, of the whole file."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=SAFE_NAME)
    size: int = Field(ge=1, le=receive.MAX_FILE_BYTES)


class UploadOut(Schema):
    """`received`: where the next part begins. Parts are of `min_part` to `max_part` bytes, the
    last one may be shorter."""

    upload: UUID
    size: int
    received: int
    min_part: int
    max_part: int


@router.post(
    "/imports", response={201: ImportOut}, operation_id="start_import", openapi_extra=IDEMPOTENT
)
def start_import(request: ApiRequest, asked: ImportIn) -> HttpResponse | dict[str, Any]:
    """Open an import into a collection."""
    into = _permitted(request, asked.collection)

    def work() -> dict[str, Any]:
        return {"job": str(_start(request, into).pk)}

    return _once(request, str(asked.collection), work)


@router.post(
    "/imports/{uuid:job}/files",
    response={200: FilesOut},
    operation_id="send_files",
    openapi_extra=IDEMPOTENT,
)
def send_files(
    request: ApiRequest, job: UUID, files: File[list[UploadedFile]]
) -> HttpResponse | dict[str, Any]:
    """Hand in files, up to a hundred at once. One that is turned away holds up no other."""
    if len(files) > MAX_FILES:
        return problem(413, f"One request brings up to {MAX_FILES} files.")
    batch = receive.own_batch(job, actor=request.auth, purpose=request.purpose)

    def work() -> dict[str, Any]:
        return {"job": str(job), "files": list(_taken_in(request, batch, files))}

    return _once(request, f"{job} {_digest(files)}", work)


@router.post("/imports/{uuid:job}/finish", response=ImportOut, operation_id="finish_import")
def finish_import(request: ApiRequest, job: UUID) -> ImportOut:
    """Say that nothing more comes in. What came in goes its way either way."""
    batch = receive.own_batch(job, actor=request.auth, purpose=request.purpose)
    receive.finish_batch(batch, actor=request.auth, purpose=request.purpose)
    return ImportOut(job=batch.pk)


@router.post(
    "/collections/{int:collection}/images",
    response={200: FilesOut},
    operation_id="send_image",
    openapi_extra=IDEMPOTENT,
)
def send_image(
    request: ApiRequest,
    collection: int,
    file: File[UploadedFile],
    report: File[UploadedFile | None] = None,
) -> HttpResponse | dict[str, Any]:
    """Hand in one file: an import of its own. `report`: the text that belongs to the picture,
    UTF-8 of up to 64 KiB; the answer tells of it as the second file."""
    into = _permitted(request, collection)

    def work() -> dict[str, Any]:
        batch = _start(request, into)
        told = list(_taken_in(request, batch, [file], report=report))
        receive.finish_batch(batch, actor=request.auth, purpose=request.purpose)
        return {"job": str(batch.pk), "files": told}

    return _once(request, f"{collection} {_digest([file, *([report] if report else [])])}", work)


@router.post(
    "/imports/{uuid:job}/uploads",
    response={201: UploadOut},
    operation_id="start_upload",
    openapi_extra=IDEMPOTENT,
)
def start_upload(request: ApiRequest, job: UUID, asked: UploadIn) -> HttpResponse | dict[str, Any]:
    """Announce a large file, which comes in part by part."""
    batch = receive.own_batch(job, actor=request.auth, purpose=request.purpose)

    def work() -> dict[str, Any]:
        upload = uploads.start(
            batch, asked.name, asked.size, actor=request.auth, purpose=request.purpose
        )
        return upload_out(upload).model_dump(mode="json")

    return _once(request, f"{job} {asked.size} {asked.name}", work)


@router.get("/uploads/{uuid:upload_id}", response=UploadOut, operation_id="upload_status")
def upload_status(request: ApiRequest, upload_id: UUID) -> UploadOut:
    """How far an upload is: where to go on after an interruption."""
    return upload_out(uploads.find(upload_id, actor=request.auth, purpose=request.purpose))


@router.patch(
    "/uploads/{uuid:upload_id}",
    response=UploadOut,
    operation_id="send_part",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {PART: {"schema": {"type": "string", "format": "binary"}}},
        },
        "parameters": [
            {
                "in": "header",
                "name": "Upload-Offset",
                "required": True,
                "schema": {"type": "integer", "minimum": 0, "maximum": receive.MAX_FILE_BYTES},
            }
        ],
    },
)
def send_part(request: ApiRequest, upload_id: UUID) -> UploadOut | HttpResponse:
    """The next part, as it is. 409 says where it should have begun."""
    offset = request.headers.get("Upload-Offset", "")
    if not (offset.isascii() and offset.isdecimal() and len(offset) <= len(str(MAX_ID))):
        return problem(400, "The header Upload-Offset says where the part begins.")
    content = request.read(uploads.MAX_PART_BYTES + 1)
    if len(content) > uploads.MAX_PART_BYTES:
        return problem(413, f"A part has up to {uploads.MAX_PART_BYTES} bytes.")
    return upload_out(
        uploads.append(upload_id, int(offset), content, actor=request.auth, purpose=request.purpose)
    )


@router.post("/uploads/{uuid:upload_id}/finish", response=FilesOut, operation_id="finish_upload")
def finish_upload(request: ApiRequest, upload_id: UUID) -> FilesOut:
    """Take the whole file in. Asked again, it says the same."""
    upload = uploads.finish(upload_id, actor=request.auth, purpose=request.purpose)
    told = FileOut(
        index=0,
        image=upload.image,
        state=State.RECEIVED,
        duplicate=not upload.is_new,
        reason=None,
    )
    return FilesOut(job=upload.batch_id, files=[told])


@router.delete("/uploads/{uuid:upload_id}", response={204: None}, operation_id="give_up_upload")
def give_up_upload(request: ApiRequest, upload_id: UUID) -> None:
    """Forget an upload and its parts."""
    uploads.give_up(upload_id, actor=request.auth, purpose=request.purpose)


def upload_out(upload: Upload) -> UploadOut:
    return UploadOut(
        upload=upload.pk,
        size=upload.size,
        received=upload.received,
        min_part=uploads.MIN_PART_BYTES,
        max_part=uploads.MAX_PART_BYTES,
    )


def _permitted(request: ApiRequest, collection_id: int) -> Collection:
    """Foreign and missing collections are denied alike, and both on the log.

    Asked before an answer of earlier is given again: the right to it may have ended meanwhile.
    """
    permitted = access.collections_where(request.auth, request.purpose, Capability.INGEST)
    found = next((c for c in permitted if c.pk == collection_id), None)
    if found is None:
        receive.record_denied(collection_id, actor=request.auth, purpose=request.purpose)
        raise AccessDenied("there is no such collection to hand in to")
    return found


def _start(request: ApiRequest, into: Collection) -> ImportBatch:
    return receive.start_batch(into, actor=request.auth, purpose=request.purpose)


def _taken_in(
    request: ApiRequest,
    batch: ImportBatch,
    files: list[UploadedFile],
    *,
    report: UploadedFile | None = None,
) -> Iterator[dict[str, Any]]:
    """`report`: of the only file."""
    refused, image = 0, None
    for index, file in enumerate(files):
        candidate = Candidate(file.name or "", _opened(file))
        try:
            image, is_new = receive.receive(
                candidate, batch, actor=request.auth, purpose=request.purpose
            )
        except Rejected as rejected:
            refused += 1
            yield _told(index, None, rejected.reason, duplicate=False)
        else:
            yield _told(index, image, None, duplicate=not is_new)
    if report is not None:
        text = Candidate(report.name or "", _opened(report))
        try:
            is_new = reports.attach(image, text, batch, actor=request.auth, purpose=request.purpose)
        except Rejected as rejected:
            refused += 1
            yield _told(len(files), None, rejected.reason, duplicate=False)
        else:
            yield _told(len(files), image, None, duplicate=not is_new)
    if refused:
        receive.count_refused(batch, refused, actor=request.auth, purpose=request.purpose)


def _told(
    index: int, image: Image | None, reason: Reason | None, *, duplicate: bool
) -> dict[str, Any]:
    out = FileOut(
        index=index,
        image=None if image is None else image.pk,
        state=State.REJECTED if image is None else image.state,
        duplicate=duplicate,
        reason=reason,
    )
    return out.model_dump(mode="json")


def _opened(file: UploadedFile) -> Callable[[], BinaryIO]:
    def opened() -> BinaryIO:
        file.seek(0)
        return cast(BinaryIO, file.file)

    return opened


def _digest(files: list[UploadedFile]) -> str:
    """Of names and contents: the same request is one with the same files."""
    running = hashlib.sha256()
    for file in files:
        name = (file.name or "").encode(errors="surrogatepass")
        running.update(f"{len(name)} {file.size} ".encode() + name)
        file.seek(0)
        for chunk in storage.io_chunks(cast(BinaryIO, file)):
            running.update(chunk)
    return running.hexdigest()


def _once(
    request: ApiRequest, asked: str, work: Callable[[], dict[str, Any]]
) -> HttpResponse | dict[str, Any]:
    key = request.headers.get(KEY_HEADER)
    if key is None:
        return work()
    if not (0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        return problem(400, f"{KEY_HEADER} is up to {MAX_KEY_CHARS} printable characters.")
    told, _again = idempotent.once(
        key,
        f"{request.method} {request.purpose} {request.path} {asked}",
        work,
        actor=request.auth,
        purpose=request.purpose,
    )
    return told
