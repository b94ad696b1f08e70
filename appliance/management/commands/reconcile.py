import logging
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, close_old_connections

from retrieval import access, kept_queries, outbox, uploads
from retrieval.errors import ServicesUnavailable

log = logging.getLogger("cloister.reconcile")


class Command(BaseCommand):
    help = (
        "Re-send nudges that were lost, for ever: a wiped broker and a killed worker lose no work. "
        "Delete kept queries and unfinished uploads whose time is over."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS")

    def handle(self, *, every: float, **_options: Any) -> None:
        access.require_bound_role()
        while True:
            try:
                if sent := outbox.reconcile():
                    log.info("%s pieces of work nudged again", sent)
                kept_queries.sweep()
                uploads.sweep()
            except (DatabaseError, ServicesUnavailable) as error:
                log.warning("the services do not answer: %s", type(error).__name__)
            close_old_connections()
            time.sleep(every)
