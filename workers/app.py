"""The Celery application as a worker runs it: `celery -A workers.app worker -Q …`."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "appliance.settings")
django.setup()

from celery.signals import celeryd_init, worker_init  # noqa: E402

from retrieval import access  # noqa: E402
from retrieval.models import Stage  # noqa: E402
from retrieval.queue import QUERY_QUEUE, app  # noqa: E402

__all__ = ["app"]

app.autodiscover_tasks(["workers"])


@celeryd_init.connect
def refuse_to_run_unbound(**_kwargs: object) -> None:
    """A worker whose database role could read past row-level security does not start."""
    access.require_bound_role()


@worker_init.connect
def warm_up(**_kwargs: object) -> None:
    """Whoever encodes loads the model before the first picture or query waits for it."""
    if {QUERY_QUEUE, Stage.ENCODE} & set(app.amqp.queues.consume_from):
        from workers import stages  # noqa: PLC0415  torch stays out of the other workers

        stages.warm_up()
