"""Keeping the index: loading, building, deleting, rebuilding. In a database of its own."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial

import faiss
import numpy as np
from django.db import connection

from retrieval import access, upkeep
from retrieval.index import Path, Route
from workers.benchmark import scratch, synthetic
from workers.benchmark.search import KINDS, QUERIES, Visible, ours, recall, timed
from workers.benchmark.synthetic import Corpus, Space
from workers.benchmark.table import Cell, Setting, Table

DEFAULT_ROWS = 25_000
CHURN = 0.05


def tables(setting: Setting) -> Iterator[Table]:
    rows = setting.rows or DEFAULT_ROWS
    with scratch.database():
        space = Space()
        corpus, writing_s = synthetic.fill(space, rows)
        vectors = np.concatenate(corpus.vectors)
        yield _building(corpus, vectors, writing_s)
        yield _churn(space, corpus)
        yield _erasing(corpus)


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return round(time.perf_counter() - started, 3)


def _building(corpus: Corpus, vectors: np.ndarray, writing_s: float) -> Table:
    partitions_s = _seconds(lambda: synthetic.build(corpus))
    copying_s, global_s = _global_table(vectors)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    graph = faiss.IndexHNSWFlat(synthetic.DIMENSIONS, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 128
    faiss_s = _seconds(lambda: graph.add(vectors))
    return Table(
        "loading and building, m 16, ef_construction 128 (goal 6: building at most 2.5)",
        (
            _rate("vectors written, indexed partitions", len(vectors), writing_s, None),
            _rate("the same by COPY, without policies or keys", len(vectors), copying_s, None),
            _rate("indexes of the partitions built", len(vectors), partitions_s, faiss_s),
            _rate("one index over everything built", len(vectors), global_s, faiss_s),
            _rate("faiss HNSW built", len(vectors), faiss_s, faiss_s),
        ),
    )


def _rate(what: str, rows: int, seconds: float, faiss_s: float | None) -> dict[str, Cell]:
    return {
        "": what,
        "seconds": round(seconds, 2),
        "rows/s": round(rows / seconds),
        "against faiss": None if faiss_s is None else round(seconds / faiss_s, 2),
    }


def _global_table(vectors: np.ndarray) -> tuple[float, float]:
    """Seconds to COPY the vectors into a table without policies, and to build its index."""
    half = vectors.astype(">f2")
    with scratch.as_owner() as owner:
        owner.execute("CREATE TABLE global_embedding (number int, vector halfvec)")
        owner.execute("ALTER TABLE global_embedding ALTER COLUMN vector SET STORAGE PLAIN")
        head = np.array([synthetic.DIMENSIONS, 0], ">i2").tobytes()

        def load() -> None:
            # COPY's binary form: the fields' number, and each one's length before it.
            with owner.cursor().copy("COPY global_embedding FROM STDIN (FORMAT binary)") as copy:
                copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
                for number, row in enumerate(half):
                    body = head + row.tobytes()
                    copy.write(b"\0\2\0\0\0\4" + number.to_bytes(4) + len(body).to_bytes(4) + body)
                copy.write(b"\xff\xff")

        copying_s = _seconds(load)
        owner.execute(f"SET maintenance_work_mem = '{upkeep.BUILD_MEMORY}'")
        owner.execute(f"SET max_parallel_maintenance_workers = {upkeep.BUILD_WORKERS}")
        building_s = _seconds(
            lambda: owner.execute(
                "CREATE INDEX ON global_embedding USING hnsw"
                f" ((vector::halfvec({synthetic.DIMENSIONS})) halfvec_cosine_ops)"
                " WITH (m = 16, ef_construction = 128)"
            )
        )
    return copying_s, building_s


def _churn(space: Space, corpus: Corpus) -> Table:
    """A twentieth of one collection's images is deleted and as many others come."""
    collection = corpus.collections[1]
    seen = Visible("5 %", synthetic.reader("reader", [collection]), [collection])
    rows: list[dict[str, Cell]] = []
    reached: list[float] = []

    def note(what: str, seconds: float | None = None) -> None:
        queries = np.concatenate([space.queries(kind, [1], QUERIES) for kind in KINDS])
        ways = {"exact": ours(corpus, seen, Route(Path.EXACT)), "index": _by_index(corpus, seen)}
        found, ms = timed(seen.reader, ways, queries)
        reached.append(recall(found["index"], found["exact"]))
        rows.append(
            {
                "": what,
                "seconds": seconds,
                "recall@10": round(reached[-1], 4),
                "against fresh": round(reached[-1] / reached[0], 3),
                "rows short": sum(10 - len(answer) for answer in found["index"]),
                "p50 ms": round(float(np.median(ms["index"])), 2),
            }
        )

    note("fresh")
    images = np.array(corpus.images, object)[corpus.rows_in([collection])]
    gone = space.rng.choice(images, max(1, round(CHURN * len(images))), replace=False)
    with scratch.as_role("worker"):
        started = time.perf_counter()
        with access.processing(collection.pk), connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM retrieval_embedding WHERE image_id = ANY (%s)", [list(gone)]
            )
    synthetic.write(corpus, collection, list(gone), space.points(1, len(gone)))
    note(f"{len(gone)} deleted and as many others written", round(time.perf_counter() - started, 2))
    with scratch.as_role("worker"):
        vacuum_s = _seconds(lambda: _vacuum(collection.pk))
    note("after vacuum", vacuum_s)
    with scratch.as_role("worker"):
        rebuilding_s = _seconds(lambda: upkeep.rebuild_index(collection.pk, corpus.encoder))
    note("index built anew beside the old one", rebuilding_s)
    return Table(
        "a twentieth of a collection churned (goal 8: recall at least 0.98 of fresh)", tuple(rows)
    )


def _by_index(corpus: Corpus, seen: Visible) -> Callable[..., list[object]]:
    """By the index also where the planner takes a sort of all rows to be as cheap."""

    def search(query: np.ndarray) -> list[object]:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_sort = off")
        return ours(corpus, seen, Route(Path.INDEX))(query)

    return search


def _vacuum(collection_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM retrieval_embedding_c{collection_id}")


def _erasing(corpus: Corpus) -> Table:
    rows: list[dict[str, Cell]] = []
    for number in (1, 2):
        collection = corpus.collections[number]
        count = len(corpus.rows_in([collection]))
        with scratch.as_role("worker"):
            seconds = _seconds(partial(upkeep.empty_partition, collection.pk))
        rows.append({"vectors": count, "seconds": seconds, "goal": "≤ 1"})
    return Table("a collection's vectors dropped with their index", tuple(rows))
