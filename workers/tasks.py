"""Celery's entry points: an id in, one domain call, right if run twice."""

import logging
from collections.abc import Callable

from retrieval import look, outbox, queue
from retrieval.errors import AccessDenied, CloisterError, EncoderUnavailable, LeaseLost
from retrieval.models import Stage, Work
from retrieval.queue import QueryVectors, app
from workers import originals, stages

log = logging.getLogger("cloister.tasks")


@app.task(name=Stage.DEIDENTIFY.value)
def deidentify(work_id: int) -> None:
    _run(work_id, stages.deidentify)


@app.task(name=Stage.COVER.value)
def cover(work_id: int) -> None:
    _run(work_id, stages.cover)


@app.task(name=Stage.ENCODE.value)
def encode(work_id: int) -> None:
    _run(work_id, stages.encode)


@app.task(name=queue.ENCODE_QUERY)
def encode_query(reply_to: str) -> None:
    """Answer a query, once; whoever asked has a typed error where it cannot be answered."""
    query = queue.take_query(reply_to)
    if query is None:
        return
    try:
        answer: QueryVectors | CloisterError = stages.encode_query(*query)
    except CloisterError as error:
        answer = error
    except Exception:
        log.exception("a query could not be encoded")
        answer = EncoderUnavailable("the encoder failed")
    queue.reply(reply_to, answer)


@app.task(name=look.SHOW_ORIGINAL)
def show_original(reply_to: str, actor_id: int, collection_id: int, image_id: str) -> None:
    """Answer with the original's pixels where the glass is broken; else nobody is answered."""
    try:
        queue.answer(reply_to, originals.shown(actor_id, collection_id, image_id))
    except AccessDenied:
        log.warning("image %s: no glass is broken for its original", image_id)


def _run(work_id: int, do: Callable[[Work], None]) -> None:
    """Claim, do, and give the lease back where it failed: the row says what is still due."""
    work = outbox.claim(work_id)
    if work is None:
        return
    try:
        do(work)
    except LeaseLost:
        log.warning("work %s was taken over; its result here is void", work_id)
    except Exception:
        outbox.release(work)
        log.exception("work %s on image %s failed", work_id, work.image_id)
