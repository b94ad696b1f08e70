"""The broker, for whoever sends: nudges to do work, and queries to be encoded. Nothing lives here.

What passes through is either an id or sealed. The broker may be wiped at any moment: work is
rows (outbox.py), and a query that is not answered in time is an error the caller sees.
"""

import struct
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, cast

import numpy as np
import redis
from celery import Celery
from django.conf import settings
from kombu.exceptions import OperationalError

from retrieval import keys
from retrieval.errors import (
    CloisterError,
    EncoderUnavailable,
    NeedsReview,
    NoTextTower,
    Reason,
    Rejected,
    ServicesUnavailable,
)
from retrieval.models import Stage
from retrieval.models.image import Region

QUERY_TIMEOUT_S: Final = 20.0
REPLY_LIFETIME_S: Final = 300
SOCKET_TIMEOUT_S: Final = 5.0
ANSWER_LIFETIME_S: Final = 30
ENCODE_QUERY: Final = "encode_query"
QUERY_QUEUE: Final = "query"
WAITING: Final = "queries"
MAX_BATCH: Final = 32
"""Queries that are encoded together: what came in while the worker was busy."""

app = Celery("cloister", broker=settings.CLOISTER_BROKER_URL)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
    task_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": SOCKET_TIMEOUT_S},
    task_publish_retry=False,
    task_routes={
        ENCODE_QUERY: {"queue": QUERY_QUEUE},
        **{str(stage): {"queue": str(stage)} for stage in Stage},
    },
)


@dataclass(frozen=True)
class ToEncode:
    """One part of a query: words, an example's bytes, or a stored image's collection and id.

    `region`: what is cut out of the picture, after it was de-identified.
    """

    words: str = field(default="", repr=False)
    image: bytes = field(default=b"", repr=False)
    stored: tuple[int, uuid.UUID] | None = None
    region: Region | None = None


@dataclass(frozen=True)
class Waiting:
    """A query that a worker took, and where its answer goes. `encoder`: its name, or empty."""

    reply_to: str
    asker: int
    encoder: str
    parts: list[ToEncode]


@dataclass(frozen=True)
class QueryVectors:
    """A query in the live encoder's space: (dimensions,) float32 of unit length, one per part."""

    encoder: str
    vectors: tuple[np.ndarray, ...]


def nudge(stage: str, work_id: int) -> None:
    """Tell a worker that a piece of work is due. Raises ServicesUnavailable: the row remains."""
    try:
        app.send_task(stage, args=[work_id])
    except (OperationalError, redis.RedisError) as error:
        raise ServicesUnavailable("the broker takes no nudges") from error


def is_idle(stage: str) -> bool:
    """Whether no nudge waits for `stage`: what is due all the same was lost on the way."""
    try:
        return int(_broker().llen(stage)) == 0
    except redis.RedisError as error:
        raise ServicesUnavailable("the broker does not answer") from error


def encode_query(
    parts: Sequence[ToEncode], *, asker: int, encoder: str = "", timeout_s: float = QUERY_TIMEOUT_S
) -> QueryVectors:
    """Have a worker encode a query; its images are de-identified there first, like any other.

    asker: the user's id, under which the worker remembers the words. encoder: its name; empty for
    the live one. That this user may see a stored image is for the caller to know. Raises
    EncoderUnavailable (transient) where no answer comes within `timeout_s`; Rejected or NeedsReview
    where an image cannot be read, has nothing in that region, or cannot be shown to be
    de-identified; NoTextTower where there are words and the encoder reads images only.
    """
    reply_to = f"reply:{uuid.uuid4().hex}"
    sealed = keys.seal_message(_write_query(asker, encoder, parts), context=reply_to.encode())
    try:
        broker = _broker()
        pipeline = broker.pipeline()
        pipeline.set(f"{reply_to}:query", sealed, ex=REPLY_LIFETIME_S)
        pipeline.rpush(WAITING, reply_to)
        pipeline.execute()
        app.send_task(ENCODE_QUERY, expires=timeout_s)
        answer = _wait_for(reply_to, broker, timeout_s)
    except (OperationalError, redis.RedisError) as error:
        raise EncoderUnavailable("the broker does not answer") from error
    if answer is None:
        raise EncoderUnavailable(f"no worker answered within {timeout_s:.0f} s")
    return _read_reply(keys.unseal_message(answer, context=reply_to.encode()))


def _wait_for(reply_to: str, broker: redis.Redis, timeout_s: float) -> bytes | None:
    """In short waits: a connection that died in a long one would hang until its end."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        if answer := broker.blpop([reply_to], timeout=min(left, SOCKET_TIMEOUT_S / 2)):
            return cast(bytes, answer[1])
    return None


def wait_for_query_worker(timeout_s: float) -> None:
    """Return once a query would be answered at once: a cold worker loads its model first."""
    # An encoder of images only refuses the words, and is as ready.
    with suppress(NoTextTower):
        encode_query([ToEncode(words="ready")], asker=0, timeout_s=timeout_s)


def take_queries() -> list[Waiting]:
    """For the worker: the queries that wait now, MAX_BATCH at most, each once.

    The message that calls is a nudge: whoever comes first takes what waits, and encodes it in
    one go. Who has stopped waiting for an answer is passed over.
    """
    broker = _broker()
    waiting = cast("list[bytes] | None", broker.lpop(WAITING, MAX_BATCH)) or []
    pipeline = broker.pipeline()
    for address in waiting:
        pipeline.getdel(address + b":query")
    return [
        _read_query(address.decode(), keys.unseal_message(sealed, context=address))
        for address, sealed in zip(waiting, pipeline.execute(), strict=True)
        if sealed is not None
    ]


def reply(reply_to: str, answer: QueryVectors | CloisterError) -> None:
    """For the worker: hand back the vectors, or the typed reason why there are none."""
    sealed = keys.seal_message(_write_reply(answer), context=reply_to.encode())
    pipeline = _broker().pipeline()
    pipeline.rpush(reply_to, sealed)
    pipeline.expire(reply_to, REPLY_LIFETIME_S)
    pipeline.execute()


def _write_reply(answer: QueryVectors | CloisterError) -> bytes:
    if isinstance(answer, (Rejected, NeedsReview)):
        return _pack([type(answer).__name__.encode(), answer.reason.encode()])
    if isinstance(answer, NoTextTower):
        return _pack([b"NoTextTower", str(answer).encode()])
    if isinstance(answer, CloisterError):
        return _pack([b"EncoderUnavailable", b""])
    rows = [vector.astype("<f4").tobytes() for vector in answer.vectors]
    return _pack([b"vectors", answer.encoder.encode(), *rows])


def _read_reply(content: bytes) -> QueryVectors:
    kind, *parts = _unpack(content)
    if kind == b"Rejected":
        raise Rejected(Reason(parts[0].decode()))
    if kind == b"NeedsReview":
        raise NeedsReview(Reason(parts[0].decode()))
    if kind == b"NoTextTower":
        raise NoTextTower(parts[0].decode())
    if kind != b"vectors":
        raise EncoderUnavailable("the encoder refused this query")
    encoder, *rows = parts
    return QueryVectors(encoder.decode(), tuple(np.frombuffer(row, dtype="<f4") for row in rows))


def _write_query(asker: int, encoder: str, parts: Sequence[ToEncode]) -> bytes:
    return _pack(
        [
            str(asker).encode(),
            encoder.encode(),
            *(field for part in parts for field in _fields(part)),
        ]
    )


def _fields(part: ToEncode) -> list[bytes]:
    region, stored = part.region, b""
    if part.stored is not None:
        collection_id, image_id = part.stored
        stored = struct.pack(">Q", collection_id) + image_id.bytes
    cut = b"" if region is None else struct.pack(">4I", region.x, region.y, region.w, region.h)
    return [part.words.encode(), part.image, stored, cut]


def _read_query(reply_to: str, content: bytes) -> Waiting:
    asker, encoder, *rest = _unpack(content)
    fields = iter(rest)
    parts = [
        ToEncode(
            words.decode(),
            image,
            (struct.unpack_from(">Q", stored)[0], uuid.UUID(bytes=stored[8:])) if stored else None,
            Region(*struct.unpack(">4I", cut)) if cut else None,
        )
        for words, image, stored, cut in zip(*[fields] * 4, strict=True)
    ]
    return Waiting(reply_to, int(asker), encoder.decode(), parts)


def _pack(parts: list[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _unpack(content: bytes) -> list[bytes]:
    parts, offset = [], 0
    while offset < len(content):
        (length,) = struct.unpack_from(">I", content, offset)
        parts.append(content[offset + 4 : offset + 4 + length])
        offset += 4 + length
    return parts


def ask(task: str, arguments: Sequence[int | str], *, timeout_s: float) -> bytes:
    """Have a query worker run `task` with an address for its answer and `arguments`, ids only.

    Raises ServicesUnavailable (transient) where no answer comes within `timeout_s`.
    """
    reply_to = f"reply:{uuid.uuid4().hex}"
    try:
        app.send_task(task, args=[reply_to, *arguments], queue=QUERY_QUEUE, expires=timeout_s)
        sealed = _wait_for(reply_to, _broker(), timeout_s)
    except (OperationalError, redis.RedisError) as error:
        raise ServicesUnavailable("the broker does not answer") from error
    if sealed is None:
        raise ServicesUnavailable(f"no worker answered within {timeout_s:.0f} s")
    return keys.unseal_message(sealed, context=reply_to.encode())


def answer(reply_to: str, content: bytes) -> None:
    """For the worker: hand `content` back to who asked, sealed."""
    pipeline = _broker().pipeline()
    pipeline.rpush(reply_to, keys.seal_message(content, context=reply_to.encode()))
    pipeline.expire(reply_to, ANSWER_LIFETIME_S)
    pipeline.execute()


def count(key: str, *, lifetime_s: int) -> int:
    """One more under this key, and how many that makes since the first one, `lifetime_s` ago at
    most. Raises ServicesUnavailable where the broker does not answer.
    """
    try:
        pipeline = _broker().pipeline(transaction=True)
        pipeline.incr(key)
        pipeline.expire(key, lifetime_s, nx=True)
        return int(pipeline.execute()[0])
    except redis.RedisError as error:
        raise ServicesUnavailable("the broker does not answer") from error


def remember(key: str, entry: bytes, *, most: int, lifetime_s: int) -> list[bytes]:
    """Add to a short memory of the newest `most` entries; returns those before, newest first.

    Of what is asked only while the broker answers anyway, and may be forgotten with it. Raises
    EncoderUnavailable where it does not answer.
    """
    try:
        pipeline = _broker().pipeline(transaction=True)
        pipeline.lrange(key, 0, most - 1)
        pipeline.lpush(key, entry)
        pipeline.ltrim(key, 0, most - 1)
        pipeline.expire(key, lifetime_s)
        return cast(list[bytes], pipeline.execute()[0])
    except redis.RedisError as error:
        raise EncoderUnavailable("the broker does not answer") from error


@lru_cache(maxsize=1)
def _broker() -> redis.Redis:
    url = settings.CLOISTER_BROKER_URL.replace("redis+socket://", "unix://", 1)
    return redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=SOCKET_TIMEOUT_S)
