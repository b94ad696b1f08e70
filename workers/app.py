"""The Celery application as a worker runs it: `celery -A workers.app worker -Q …`."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "appliance.settings")
django.setup()

from celery.signals import celeryd_init  # noqa: E402
from retrieval import access  # noqa: E402
from retrieval.queue import app  # noqa: E402

__all__ = ["app"]

app.autodiscover_tasks(["workers"])


@celeryd_init.connect  # type: ignore[untyped-decorator]
def refuse_to_run_unbound(**_kwargs: object) -> None:
    """A worker whose database role could read past row-level security does not start."""
    access.require_bound_role()
