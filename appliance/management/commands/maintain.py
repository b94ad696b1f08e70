import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, close_old_connections
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from appliance import env
from retrieval import access, tag_words, upkeep
from retrieval.errors import CloisterError

log = logging.getLogger("cloister.maintain")


class Command(BaseCommand):
    help = (
        "Keep the index fast and complete, for ever: build it after loads, anew after deletions, "
        "and hold it against exact scans. Writes what it finds as metrics."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS")
        parser.add_argument("--once", action="store_true", help="one round, then end")
        parser.add_argument("--json", action="store_true", help="with --once: what was done")

    def handle(self, *, every: float, once: bool, json: bool, **_options: Any) -> None:
        access.require_bound_role()
        if once:
            cared = upkeep.care()
            write_metrics(env.metrics_folder())
            self.stdout.write(report(cared, as_json=json))
            return
        while True:
            try:
                if (cared := upkeep.care()) != upkeep.Cared():
                    log.info("%s", report(cared, as_json=False))
                write_metrics(env.metrics_folder())
                if chosen := tag_words.care():
                    log.info("%s thresholds of tag words chosen", chosen)
            except (CloisterError, DatabaseError) as error:
                # Tomorrow's index is not given up for what is wrong today, such as a missing key.
                log.warning("the index could not be cared for: %s", type(error).__name__)
            close_old_connections()
            time.sleep(every)


def report(cared: upkeep.Cared, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(asdict(cared))
    return (
        f"{len(cared.built)} indexes built, {len(cared.rebuilt)} built anew, "
        f"{len(cared.low)} with low recall, {len(cared.failed)} not cared for"
    )


def write_metrics(folder: Path) -> None:
    """In Prometheus' text format, for a node exporter's textfile collector. Ids only."""
    registry = CollectorRegistry()
    names = ("collection", "encoder")
    gauges = {
        "rows": Gauge("cloister_index_rows", "Vectors", names, registry=registry),
        "removed": Gauge(
            "cloister_index_removed_rows", "Dead since it was built", names, registry=registry
        ),
        "ef_search": Gauge("cloister_index_ef_search", "Rows looked at", names, registry=registry),
    }
    recall = Gauge("cloister_index_recall", "Recall@10 on a sample", names, registry=registry)
    checked = Gauge(
        "cloister_index_checked_timestamp_seconds",
        "When the sample was last held against an exact scan",
        names,
        registry=registry,
    )
    for part in upkeep.parts():
        labels = (part.collection_id, part.encoder_id)
        for field, gauge in gauges.items():
            gauge.labels(*labels).set(getattr(part, field))
        # What answers no queries is not checked, and its last recall is no alarm.
        if part.encoder.live and part.rows and part.recall is not None and part.checked_at:
            recall.labels(*labels).set(part.recall)
            checked.labels(*labels).set(part.checked_at.timestamp())
    write_to_textfile(str(folder / "cloister.prom"), registry)
