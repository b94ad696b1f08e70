"""Celery's entry points: an id in, one domain call, right if run twice."""

import logging
from collections.abc import Callable

from retrieval import look, outbox, queue
from retrieval.errors import AccessDenied
from retrieval.models import Stage, Work
from retrieval.queue import app
from workers import originals, query, reports, stages

log = logging.getLogger("cloister.tasks")


@app.task(name=Stage.DEIDENTIFY.value)
def deidentify(work_id: int) -> None:
    _run(work_id, stages.deidentify)


@app.task(name=Stage.COVER.value)
def cover(work_id: int) -> None:
    _run(work_id, stages.cover)


@app.task(name=Stage.ENCODE.value)
def encode(work_id: int) -> None:
    """Takes along what else waits to be encoded; its own nudges then find nothing left to do."""
    from workers.encode.batches import under_way_together  # noqa: PLC0415  torch, as in stages.warm_up

    works = outbox.claim_together(work_id, most=under_way_together())
    with outbox.attempting(*works), outbox.keeping(*works):
        stages.encode(works)


@app.task(name=Stage.REPORT.value)
def read_report(work_id: int) -> None:
    # Before the claim: the last one, after three failures, gives the work up.
    reports.forget_earlier(work_id)
    _run(work_id, reports.read)


@app.task(name=queue.ENCODE_QUERY)
def encode_query() -> None:
    """Answer the queries that wait; who asked has a typed error where one cannot be answered."""
    waiting = queue.take_queries()
    if not waiting:
        return
    for asked, answer in zip(waiting, query.encode(waiting), strict=True):
        queue.reply(asked.reply_to, answer)


@app.task(name=look.SHOW_ORIGINAL)
def show_original(reply_to: str, actor_id: int, collection_id: int, image_id: str) -> None:
    """Answer with the original's pixels where the glass is broken; else nobody is answered."""
    try:
        queue.answer(reply_to, originals.shown(actor_id, collection_id, image_id))
    except AccessDenied:
        log.warning("image %s: no glass is broken for its original", image_id)


def _run(work_id: int, do: Callable[[Work], None]) -> None:
    work = outbox.claim(work_id)
    if work is None:
        return
    with outbox.attempting(work), outbox.keeping(work):
        do(work)
