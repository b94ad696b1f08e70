"""The care of the index: built after a load, rebuilt after deletions, checked against exact scans.

As a worker's role: what is built is decided by functions of the database's owner (migration 0019),
and a rebuild beside running searches needs MAINTAIN on the partition and nothing else.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.utils import CursorWrapper
from django.utils import timezone
from psycopg import sql

from retrieval import access, index
from retrieval.errors import CloisterError
from retrieval.index import Path, Route
from retrieval.models import Collection, EncoderVersion, IndexPart

log = logging.getLogger("cloister.upkeep")

INDEXED_FROM_ROWS = 500
"""An exact scan of fewer is as fast as a look into an index of them."""
REBUILD_AT_REMOVED = 0.01
"""The share of dead vectors from which recall was seen to suffer: vacuum alone does not mend it."""
LEAST_RECALL = 0.95
DEEPEST_EF_SEARCH = 400
CHECK_AGAIN_AFTER = timedelta(hours=6)
BUILD_MEMORY = "512MB"
BUILD_WORKERS = 2
SAMPLE = 20
_POLL_S = 0.5
_UPKEEP_LOCK = 0x636C6F6A

Progress = Callable[[int, int], None]
"""Told rows done and rows in all, from a thread of its own."""


@dataclass(frozen=True)
class Cared:
    """What one round did, as ids of collection and encoder: built, built anew, found to be of low
    recall, and what could not be cared for."""

    built: list[tuple[int, int]] = field(default_factory=list)
    rebuilt: list[tuple[int, int]] = field(default_factory=list)
    low: list[tuple[int, int]] = field(default_factory=list)
    failed: list[tuple[int, int]] = field(default_factory=list)


def care() -> Cared:
    """Build, rebuild and check what is due, in all collections. One round at a time, anywhere."""
    cared = Cared()
    with _alone() as alone:
        if not alone:
            return cared
        for encoder in EncoderVersion.objects.filter(retired_at__isnull=True):
            for collection_id in Collection.objects.values_list("pk", flat=True):
                try:
                    _care_for(collection_id, encoder, cared)
                except (CloisterError, OperationalError) as error:
                    # One that is too large to check in time holds up no other.
                    name = (collection_id, encoder.pk)
                    log.warning("collection %s, encoder %s: %s", *name, type(error).__name__)
                    cared.failed.append(name)
    return cared


def _care_for(collection_id: int, encoder: EncoderVersion, cared: Cared) -> None:
    part = find_part(collection_id, encoder)
    if part is None or not part.rows:
        return
    name = (collection_id, encoder.pk)
    if not has_index(collection_id, encoder):
        # What is still being filled is built in one go when it is switched to.
        if part.rows < INDEXED_FROM_ROWS or not encoder.live:
            return
        build_index(collection_id, encoder)
        cared.built.append(name)
    elif part.removed >= REBUILD_AT_REMOVED * part.rows:
        rebuild_index(collection_id, encoder)
        cared.rebuilt.append(name)
    elif part.checked_at is not None and timezone.now() - part.checked_at < CHECK_AGAIN_AFTER:
        return
    if encoder.live and mend_recall(collection_id, encoder) < LEAST_RECALL:
        log.error("recall of collection %s with encoder %s is low", *name)
        cared.low.append(name)


def parts() -> list[IndexPart]:
    """What is known of every partition's index, of all collections and encoders in use."""
    in_use = IndexPart.objects.filter(encoder__retired_at__isnull=True).select_related("encoder")
    with transaction.atomic(durable=True):
        return [
            part
            for collection_id in access.each_collection()
            for part in in_use.filter(collection_id=collection_id).order_by("encoder")
        ]


def find_part(collection_id: int, encoder: EncoderVersion) -> IndexPart | None:
    with access.processing(collection_id):
        return IndexPart.objects.filter(collection_id=collection_id, encoder=encoder).first()


def has_index(collection_id: int, encoder: EncoderVersion) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [_name(collection_id, encoder)])
        return bool(cursor.fetchone()[0])


def build_missing(encoder: EncoderVersion, progress: Progress | None = None) -> int:
    """Build what `encoder` needs to answer queries; returns how many partitions it took."""
    built = 0
    for collection_id in Collection.objects.values_list("pk", flat=True):
        part = find_part(collection_id, encoder)
        wanted = part is not None and part.rows >= INDEXED_FROM_ROWS
        if wanted and not has_index(collection_id, encoder):
            build_index(collection_id, encoder, progress)
            built += 1
    return built


def build_index(
    collection_id: int, encoder: EncoderVersion, progress: Progress | None = None
) -> None:
    """Build a partition's HNSW index in parallel. Searches go on; writes to it wait."""
    with _reporting(progress), access.processing(collection_id), connection.cursor() as cursor:
        _allow_for_building(cursor, "SET LOCAL")
        cursor.execute("SELECT cloister_build_index(%s, %s)", [collection_id, encoder.pk])


def rebuild_index(
    collection_id: int, encoder: EncoderVersion, progress: Progress | None = None
) -> None:
    """Build the index anew beside the old one, and take its place. Nobody waits."""
    part = find_part(collection_id, encoder)
    with access.processing(collection_id), connection.cursor() as cursor:
        cursor.execute("SELECT cloister_drop_broken_indexes(%s)", [collection_id])
    with _reporting(progress), connection.cursor() as cursor:
        _allow_for_building(cursor, "SET")
        try:
            cursor.execute(
                sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(
                    sql.Identifier("public", _name(collection_id, encoder))
                )
            )
        finally:
            cursor.execute("RESET maintenance_work_mem")
            cursor.execute("RESET max_parallel_maintenance_workers")
    with access.processing(collection_id), connection.cursor() as cursor:
        removed = 0 if part is None else part.removed
        cursor.execute(
            "SELECT cloister_note_rebuilt(%s, %s, %s)", [collection_id, encoder.pk, removed]
        )


def mend_recall(collection_id: int, encoder: EncoderVersion) -> float:
    """Look as deep as a sample needs, note it for searches to come, and return its recall@10."""
    part = find_part(collection_id, encoder)
    depth = index.FULL_EF_SEARCH if part is None else part.ef_search
    while (recall := measure_recall(collection_id, encoder)) < LEAST_RECALL:
        if depth >= DEEPEST_EF_SEARCH:
            break
        depth = min(2 * depth, DEEPEST_EF_SEARCH)
        _note(collection_id, encoder, ef_search=depth)
    _note(collection_id, encoder, recall=recall, checked_at=timezone.now())
    return recall


def measure_recall(
    collection_id: int, encoder: EncoderVersion, *, sample: int = SAMPLE, k: int = 10
) -> float:
    """Recall@k of the way a search goes, against an exact scan.

    Half of the queries lie near stored vectors, half are foreign to the collection. 1 where it is
    empty, or was emptied meanwhile.
    """
    rng = np.random.default_rng()
    with access.processing(collection_id):
        near = index.sample_vectors(collection_id, sample - sample // 2, encoder=encoder)
        if not len(near):
            return 1.0
        foreign = rng.normal(size=(sample // 2, encoder.dimensions)) + 0.5 * near.mean(axis=0)
        scale = 0.3 / np.sqrt(encoder.dimensions)
        queries = np.concatenate([near + scale * rng.normal(size=near.shape), foreign])
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        found, wanted = (
            [
                {
                    n.image_id
                    for n in index.nearest(
                        query, within=[collection_id], encoder=encoder, limit=k, route=route
                    )
                }
                for query in queries
            ]
            for route in (
                Route(Path.INDEX, index.ef_search_of([collection_id], encoder)),
                Route(Path.EXACT),
            )
        )
    shares = [len(a & b) / len(b) for a, b in zip(found, wanted, strict=True) if b]
    return float(np.mean(shares)) if shares else 1.0


def empty_partition(collection_id: int) -> None:
    """Drop every vector of a collection with its indexes, at once, whatever their number."""
    with access.processing(collection_id), connection.cursor() as cursor:
        cursor.execute("SELECT cloister_empty_partition(%s)", [collection_id])


def _note(collection_id: int, encoder: EncoderVersion, **values: object) -> None:
    with access.processing(collection_id):
        IndexPart.objects.filter(collection_id=collection_id, encoder=encoder).update(**values)


def _name(collection_id: int, encoder: EncoderVersion) -> str:
    return f"retrieval_embedding_c{collection_id}_e{encoder.pk}"


def _allow_for_building(cursor: CursorWrapper, command: str) -> None:
    cursor.execute(f"{command} maintenance_work_mem = '{BUILD_MEMORY}'")
    cursor.execute(f"{command} max_parallel_maintenance_workers = {BUILD_WORKERS}")


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether no other round is under way. The lock is the connection's: no pool stands between."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_UPKEEP_LOCK])
        alone = bool(cursor.fetchone()[0])
        try:
            yield alone
        finally:
            if alone:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_UPKEEP_LOCK])


@contextmanager
def _reporting(progress: Progress | None) -> Iterator[None]:
    """Tell how far this connection's index build is, as seen from another connection."""
    if progress is None:
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    ended = threading.Event()

    def watch() -> None:
        try:
            while not ended.wait(_POLL_S):
                with connections["default"].cursor() as cursor:
                    cursor.execute(
                        "SELECT tuples_done, tuples_total FROM pg_stat_progress_create_index"
                        " WHERE pid = %s",
                        [pid],
                    )
                    if row := cursor.fetchone():
                        progress(*row)
        finally:
            connections["default"].close()

    watcher = threading.Thread(target=watch, name="progress of an index", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
