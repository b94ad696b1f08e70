"""The whole index: loading, building, finding, deleting, rebuilding, and every goal in one table.

In a database of its own. The ways to the nearest rows are those of `benchmark search`.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import faiss
import numpy as np
from django.db import connection
from django.test.utils import CaptureQueriesContext

from retrieval import access, upkeep
from retrieval.index import Path, Route
from retrieval.models import Purpose
from workers.benchmark import goals, scratch, search, synthetic, ways
from workers.benchmark.against_faiss import build_graph
from workers.benchmark.synthetic import Corpus, Space
from workers.benchmark.table import Cell, Setting, Table
from workers.benchmark.ways import KINDS, Answer, Visible, Way, ms_at, ours, recall, timed

DEFAULT_ROWS = 25_000
CHURN = 0.05


def tables(setting: Setting) -> Iterator[Table]:
    seen: list[Table] = []
    for table in _measured(setting):
        seen.append(table)
        yield table
    yield goals.summary(seen)


def _measured(setting: Setting) -> Iterator[Table]:
    rows = setting.rows or DEFAULT_ROWS
    with scratch.database():
        space = Space()
        corpus, writing_s = synthetic.fill(space, rows, setting.say)
        graph, table = _building(corpus, writing_s, setting)
        yield table
        yield from search.measured(space, corpus, setting, graph)
        yield _churn(space, corpus)
        yield _erasing(corpus)


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return round(time.perf_counter() - started, 3)


def _building(
    corpus: Corpus, writing_s: float, setting: Setting
) -> tuple[faiss.IndexHNSWFlat, Table]:
    vectors = np.concatenate(corpus.vectors)
    partitions_s = _seconds(lambda: synthetic.build(corpus, setting.say))
    setting.say("building one index over everything, to compare with")
    copying_s, global_s = ways.copy_to_global_table(corpus), ways.build_global_index()
    setting.say("building faiss' index")
    graph, faiss_s = build_graph(vectors)
    return graph, Table(
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


def _churn(space: Space, corpus: Corpus) -> Table:
    """A twentieth of one collection's images is deleted and as many others come.

    `by the index` is the plan's own word, asked of one query before each measurement.
    """
    collection = corpus.collections[1]
    seen = Visible("5 %", synthetic.reader("churned", [collection]), [collection])
    rows: list[dict[str, Cell]] = []
    reached: list[float] = []

    def note(what: str, seconds: float | None = None) -> None:
        queries = np.concatenate([space.queries(kind, [1], ways.QUERIES) for kind in KINDS])
        both = {"exact": ours(corpus, seen, Route(Path.EXACT)), "index": _by_index(corpus, seen)}
        found, ms = timed(seen.reader, both, queries)
        reached.append(recall(found["index"], found["exact"]))
        rows.append(
            {
                "": what,
                "seconds": seconds,
                "by the index": "yes" if _uses_index(corpus, seen, queries[0]) else "NO",
                "recall@10": round(reached[-1], 4),
                "against fresh": round(reached[-1] / reached[0], 3),
                "rows short": sum(10 - len(answer) for answer in found["index"]),
                "p50 ms": ms_at(ms["index"], 50),
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


def _by_index(corpus: Corpus, seen: Visible) -> Way:
    """By the index also where the planner takes a sort of all rows to be as cheap."""

    def search(query: np.ndarray) -> Answer:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_sort = off")
        return ours(corpus, seen, Route(Path.INDEX))(query)

    return search


def _uses_index(corpus: Corpus, seen: Visible, query: np.ndarray) -> bool:
    """Whether the plan of such a search goes through the collection's HNSW index."""
    (collection,) = seen.collections
    with access.acting_as(seen.reader, Purpose.TREATMENT), connection.cursor() as cursor:
        with CaptureQueriesContext(connection) as captured:
            _by_index(corpus, seen)(query)
        # The last statement of the last message; its settings are this transaction's.
        cursor.execute(f"EXPLAIN {captured[-1]['sql'].split('; ')[-1]}")
        plan = " ".join(row for (row,) in cursor.fetchall())
    return f"Index Scan using retrieval_embedding_c{collection.pk}_e{corpus.encoder.pk}" in plan


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
