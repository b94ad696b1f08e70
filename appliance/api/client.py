"""A client of the API in one file, with nothing but Python's own library.

    from client import Cloister

    cloister = Cloister("https://cloister.example.org", token, purpose="TREAT")
    for hit in cloister.search("fracture of the wrist").hits:
        print(hit.image, hit.score)

Answers are frozen dataclasses with the fields of the OpenAPI document. What the appliance refuses
raises Refused, with the problem document.
"""

import json
import ssl
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

TIMEOUT_S = 60
WAITS = 3
"""So often an answer of 429 or 503 is waited out."""
LONGEST_WAIT_S = 60


class Refused(Exception):
    """`status` and `problem` (RFC 9457) say why; `retry_after_s` when it may be different."""

    def __init__(self, status: int, problem: dict[str, Any], retry_after_s: int | None) -> None:
        super().__init__(f"{status}: {problem.get('detail', '')}")
        self.status, self.problem, self.retry_after_s = status, problem, retry_after_s


@dataclass(frozen=True)
class Hit:
    image: str
    collection: str
    score: float
    source: str | None
    region: list[int] | None
    found_in: str
    starts_at_s: float | None
    ends_at_s: float | None


@dataclass(frozen=True)
class Answer:
    hits: list[Hit]
    audit: int
    confident: bool | None


@dataclass(frozen=True)
class Collection:
    id: int
    name: str
    description: str
    may: list[str]


@dataclass(frozen=True)
class Image:
    image: str
    collection: int
    state: str
    reason: str
    media_type: str
    width: int | None
    height: int | None
    source: str | None
    tags: list[str]
    automatic_tags: list[str]
    audit: int


@dataclass(frozen=True)
class File:
    index: int
    image: str | None
    state: str
    duplicate: bool
    reason: str | None


@dataclass(frozen=True)
class Progress:
    job: str
    collection: int
    started_at: str
    refused: int
    received: int
    pending: int
    indexed: int
    review: int
    rejected: int
    quarantined: int
    done: bool


@dataclass(frozen=True)
class Proof:
    number: int
    entry: str
    index: int
    size: int
    path: list[str]
    checkpoint: str
    public_key: str


class Cloister:
    """One token, used for one purpose of use."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        purpose: str | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`context`: trusts the certificate of an appliance that signed its own."""
        self._base, self._context = f"{address.rstrip('/')}/api/v1", context
        self._headers = {"Authorization": f"Bearer {token}"}
        if purpose is not None:
            self._headers["Purpose-Of-Use"] = purpose

    def search(self, words: str = "", *, image: bytes | None = None, **query: Any) -> Answer:
        """Images nearest to words, an example image's bytes, or both; `query` as SearchIn."""
        asked = query | ({"words": words} if words else {})
        if image is None:
            return _answer(self._json("POST", "/search", asked))
        form = _Form()
        form.file("image", "image", image)
        form.field("query", json.dumps(asked))
        return _answer(self._sent("POST", "/search/image", form.body(), form.content_type))

    def similar(self, image: str, limit: int = 20) -> Answer:
        return _answer(self._json("GET", f"/images/{image}/similar?limit={limit}"))

    def image(self, image: str) -> Image:
        return Image(**self._json("GET", f"/images/{image}"))

    def preview(self, image: str) -> bytes:
        """The de-identified picture, a JPEG."""
        with self._open("GET", f"/images/{image}/preview") as response:
            return response.read()

    def collections(self) -> Iterator[Collection]:
        return (Collection(**item) for item in self._pages("/collections"))

    def start_import(self, collection: int, *, key: str | None = None) -> str:
        """Open an import; returns its id. `key`: the same key again opens no second one."""
        told = self._json("POST", "/imports", {"collection": collection}, key=key)
        return str(told["job"])

    def send(
        self, job: str, files: Sequence[tuple[str, bytes]], *, key: str | None = None
    ) -> list[File]:
        """Hand in files, names and contents. A repeated call under one key is made once."""
        form = _Form()
        for name, content in files:
            form.file("files", name, content)
        path = f"/imports/{job}/files"
        told = self._sent("POST", path, form.body(), form.content_type, key=key or uuid.uuid4().hex)
        return [File(**file) for file in told["files"]]

    def send_large(self, job: str, path: Path) -> File:
        """Hand in a large file part by part. What was sent before an interruption is kept."""
        told = self._json(
            "POST",
            f"/imports/{job}/uploads",
            {"name": path.name, "size": path.stat().st_size},
            key=uuid.uuid4().hex,
        )
        with path.open("rb") as file:
            self.resume(told["upload"], file)
        done = self._json("POST", f"/uploads/{told['upload']}/finish")
        return File(**done["files"][0])

    def resume(self, upload: str, file: BinaryIO) -> None:
        """Send what is missing of an upload."""
        state = self._json("GET", f"/uploads/{upload}")
        while state["received"] < state["size"]:
            file.seek(state["received"])
            part = file.read(state["max_part"])
            state = self._sent(
                "PATCH",
                f"/uploads/{upload}",
                part,
                "application/octet-stream",
                headers={"Upload-Offset": str(state["received"])},
            )

    def finish_import(self, job: str) -> None:
        self._json("POST", f"/imports/{job}/finish")

    def progress(self, job: str) -> Progress:
        return Progress(**self._json("GET", f"/jobs/{job}"))

    def files(self, job: str) -> Iterator[dict[str, Any]]:
        """What became of each file of an import."""
        return self._pages(f"/jobs/{job}/files")

    def evaluate(self, queries: dict[str, Sequence[str]]) -> dict[str, Any]:
        """Measures of the live model for words and the ids of the images that answer them."""
        judged = [{"words": words, "relevant": list(ids)} for words, ids in queries.items()]
        found: dict[str, Any] = self._json("POST", "/evaluations", {"queries": judged})
        return found

    def events(self) -> Iterator[dict[str, Any]]:
        """What this token did, newest first, as the log has it."""
        return self._pages("/audit/events")

    def prove(self, number: int) -> Proof:
        """That an entry of one's own is in the log."""
        return Proof(**self._json("GET", f"/audit/events/{number}/proof"))

    def rotate(self, overlap_s: int = 0) -> str:
        """Exchange the token for its successor, which this client uses from now on."""
        text = str(self._json("POST", "/token/rotate", {"overlap_s": overlap_s})["text"])
        self._headers["Authorization"] = f"Bearer {text}"
        return text

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        cursor: str | None = ""
        while cursor is not None:
            page = self._json("GET", f"{path}?{urlencode({'cursor': cursor})}")
            yield from page["items"]
            cursor = page["next"]

    def _json(self, method: str, path: str, asked: Any = None, *, key: str | None = None) -> Any:
        body = None if asked is None else json.dumps(asked).encode()
        return self._sent(method, path, body, "application/json", key=key)

    def _sent(
        self,
        method: str,
        path: str,
        body: bytes | None,
        content_type: str,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        told = dict(headers or {}) | ({"Content-Type": content_type} if body is not None else {})
        if key is not None:
            told["Idempotency-Key"] = key
        with self._open(method, path, body, told) as response:
            return json.loads(response.read())

    def _open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> HTTPResponse:
        for wait in range(WAITS + 1):
            request = Request(  # noqa: S310  the operator's own address
                self._base + path, body, self._headers | (headers or {}), method=method
            )
            try:
                opened: HTTPResponse = urlopen(  # noqa: S310
                    request, timeout=TIMEOUT_S, context=self._context
                )
            except HTTPError as error:
                refused = _refused(error)
                pause = refused.retry_after_s
                is_brief = pause is not None and pause <= LONGEST_WAIT_S
                if wait == WAITS or error.code not in (429, 503) or not is_brief:
                    raise refused from error
                time.sleep(pause or 1)
            else:
                return opened
        raise AssertionError


def _refused(error: HTTPError) -> Refused:
    try:
        problem = json.loads(error.read())
    except ValueError:
        problem = {}
    after = error.headers.get("Retry-After", "")
    return Refused(error.code, problem, int(after) if after.isdecimal() else None)


def _answer(told: Any) -> Answer:
    return Answer([Hit(**hit) for hit in told["hits"]], told["audit"], told["confident"])


class _Form:
    """multipart/form-data (RFC 7578)."""

    def __init__(self) -> None:
        self._boundary, self._parts = uuid.uuid4().hex, list[bytes]()
        self.content_type = f"multipart/form-data; boundary={self._boundary}"

    def field(self, name: str, value: str) -> None:
        self._add(f'name="{name}"', value.encode())

    def file(self, name: str, filename: str, content: bytes) -> None:
        quoted = filename.replace("\\", "\\\\").replace('"', '\\"')
        self._add(f'name="{name}"; filename="{quoted}"', content)

    def body(self) -> bytes:
        return b"".join(self._parts) + f"--{self._boundary}--\r\n".encode()

    def _add(self, disposition: str, content: bytes) -> None:
        head = f"--{self._boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
        self._parts += [head.encode(), content, b"\r\n"]
