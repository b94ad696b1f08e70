"""The Celery application as a worker runs it: `celery -A workers.app worker -Q …`."""

import logging
import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "appliance.settings")
django.setup()

from celery.signals import celeryd_init, task_prerun, worker_init  # noqa: E402
from django.db import close_old_connections  # noqa: E402

from retrieval import access  # noqa: E402
from retrieval.errors import ModelRefused, ServicesUnavailable  # noqa: E402
from retrieval.models import Stage  # noqa: E402
from retrieval.queue import QUERY_QUEUE, app  # noqa: E402
from workers import cores  # noqa: E402
from workers.decode import sandbox  # noqa: E402
from workers.deidentify.verdict import PROFILES, detector_for  # noqa: E402
from workers.encode import regions  # noqa: E402

__all__ = ["app"]

log = logging.getLogger("cloister.workers")

app.autodiscover_tasks(["workers"])
# Celery would sign in to the database anew for each task, and each session plans from nothing: as
# much processor time as all the messages of a task.
app.conf.CELERY_DB_REUSE_MAX = sys.maxsize


@task_prerun.connect
def leave_broken_sessions(**_kwargs: object) -> None:
    """A session of the database that broke, or grew old, is not used by the next task."""
    close_old_connections()


@celeryd_init.connect
def refuse_to_run_unbound(**_kwargs: object) -> None:
    """A worker whose database role could read past row-level security does not start."""
    access.require_bound_role()


@worker_init.connect
def take_one_core(**_kwargs: object) -> None:
    """Of those who import there is one on each core; who answers queries is waited for, and may
    use all that are idle."""
    if set(Stage) & set(app.amqp.queues.consume_from):
        cores.take_one()


@worker_init.connect
def refuse_to_decode_unprotected(**_kwargs: object) -> None:
    """A worker whose decoder is less confined than CLOISTER_SANDBOX asks for does not start."""
    try:
        protection = sandbox.protection()
    except ServicesUnavailable as error:
        # Celery only logs what a signal's receiver raises.
        raise SystemExit(str(error)) from error
    is_best = protection is sandbox.Protection.ISOLATED
    log.log(logging.INFO if is_best else logging.WARNING, "decoder: %s", protection.name.lower())


@worker_init.connect
def refuse_detectors_that_cannot_be_used(**_kwargs: object) -> None:
    """A worker does not start while one of the operator's detectors that it uses is not as
    listed."""
    served = set(app.amqp.queues.consume_from)
    try:
        if {QUERY_QUEUE, Stage.DEIDENTIFY, Stage.COVER} & served:
            detector_for(PROFILES["photographs"])
        if Stage.ENCODE in served:
            regions.object_detectors()
    except ModelRefused as error:
        raise SystemExit(str(error)) from error


@worker_init.connect
def warm_up(**_kwargs: object) -> None:
    """Whoever encodes loads the model before the first picture or query waits for it."""
    if {QUERY_QUEUE, Stage.ENCODE} & set(app.amqp.queues.consume_from):
        from workers import stages  # noqa: PLC0415  torch stays out of the other workers

        stages.warm_up()
