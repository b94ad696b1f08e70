"""What a worker does before its first picture: it refuses, or takes its share of the machine."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from celery.fixups.django import DjangoWorkerFixup  # type: ignore[attr-defined]
from celery.signals import task_prerun
from django.conf import settings
from django.db import connection

from retrieval.models import Stage
from retrieval.queue import QUERY_QUEUE
from workers import app as worker
from workers import cores
from workers.deidentify.faces.mtcnn import Mtcnn


@pytest.mark.parametrize("stage", [Stage.DEIDENTIFY, Stage.ENCODE])
def test_a_worker_does_not_start_with_a_detector_that_is_not_as_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    listed = tmp_path / "detectors.toml"
    listed.write_text("[[detector]]\nname = 'ward'\n", encoding="utf-8")
    monkeypatch.setattr(settings, "CLOISTER_DETECTORS", listed)
    queues = SimpleNamespace(consume_from={stage: None})
    monkeypatch.setattr(worker, "app", SimpleNamespace(amqp=SimpleNamespace(queues=queues)))

    with pytest.raises(SystemExit):
        worker.refuse_detectors_that_cannot_be_used()


@pytest.mark.parametrize(
    ("queue", "threads"), [(Stage.DEIDENTIFY, 1), (Stage.ENCODE, 1), (QUERY_QUEUE, 8)]
)
def test_who_imports_takes_one_core_and_who_answers_queries_all(
    monkeypatch: pytest.MonkeyPatch, queue: str, threads: int
) -> None:
    monkeypatch.setattr(cores, "there", lambda: 8)
    monkeypatch.setattr(cores, "_taken", None)
    queues = SimpleNamespace(consume_from={queue: None})
    monkeypatch.setattr(worker, "app", SimpleNamespace(amqp=SimpleNamespace(queues=queues)))

    worker.take_one_core()

    options = Mtcnn()._propose.get_session_options()
    assert (cores.threads(), options.intra_op_num_threads) == (threads, threads)


def test_tasks_share_a_session_of_the_database_until_it_breaks(db: None) -> None:
    celery = DjangoWorkerFixup(worker.app)
    task = SimpleNamespace(request=SimpleNamespace(is_eager=False))
    connection.ensure_connection()
    session = connection.connection

    celery.on_task_prerun(task)
    celery.on_task_postrun(task)
    assert connection.connection is session

    session.close()
    task_prerun.send(sender="any task")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert connection.connection is not session
