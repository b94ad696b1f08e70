"""Finding the nearest rows: right rows, time, and what else could have found them.

In a database of its own, side by side in one run: our paths, one pgvector index over everything
with the same rows, and faiss. Every time is of a query alone, queries of all variants in turns.
"""

from collections.abc import Iterator

import faiss
import numpy as np

from retrieval import upkeep
from retrieval.index import Path, Route
from workers.benchmark import scratch, synthetic, ways
from workers.benchmark.against_faiss import against_faiss, build_graph
from workers.benchmark.synthetic import Corpus, Space
from workers.benchmark.table import Cell, Setting, Table
from workers.benchmark.ways import (
    KINDS,
    Visible,
    global_index,
    mixed,
    ms_at,
    ours,
    queries_for,
    recall,
    timed,
)
from workers.benchmark.whole import whole

DEFAULT_ROWS = 25_000


def tables(setting: Setting) -> Iterator[Table]:
    rows = setting.rows or DEFAULT_ROWS
    with scratch.database():
        space = Space()
        corpus, _ = synthetic.fill(space, rows, setting.say)
        synthetic.build(corpus, setting.say)
        setting.say("building one index over everything, and faiss' own")
        ways.copy_to_global_table(corpus)
        ways.build_global_index()
        graph, _ = build_graph(np.concatenate(corpus.vectors))
        yield from measured(space, corpus, setting, graph)


def measured(
    space: Space,
    corpus: Corpus,
    setting: Setting,
    graph: faiss.IndexHNSWFlat,
) -> Iterator[Table]:
    """Everything that is asked of a filled and built index. Beside it the global one stands."""
    ways.settle()
    visible = ways.who_sees(corpus)
    note = f"{len(corpus.images)} vectors of {synthetic.DIMENSIONS} in {synthetic.COLLECTIONS}"
    yield _right_rows(space, corpus, visible, note)
    yield _few_against_all(space, corpus, visible)
    yield _paths(space, corpus, visible)
    yield _policies(space, corpus, visible)
    yield _evenness(space, corpus, visible)
    yield whole(space, corpus, visible)
    yield against_faiss(space, corpus, visible, graph)


def _right_rows(space: Space, corpus: Corpus, visible: dict[str, Visible], note: str) -> Table:
    rows: list[dict[str, Cell]] = []
    for name in ("50 %", "5 %", "0.5 %"):
        seen = visible[name]
        for kind in KINDS:
            found, ms = timed(
                seen.reader,
                {
                    "exact": ours(corpus, seen, Route(Path.EXACT)),
                    "ours": ours(corpus, seen),
                    "filtered": global_index(seen),
                    "iterative": global_index(seen, on="strict_order"),
                },
                queries_for(space, corpus, seen, kind),
            )
            exact = found["exact"]
            rows.append(
                {
                    "visible": name,
                    "queries": kind,
                    "recall@10": round(recall(found["ours"], exact), 3),
                    "p50 ms": ms_at(ms["ours"], 50),
                    "p95 ms": ms_at(ms["ours"], 95),
                    "one index, filtered: recall": round(recall(found["filtered"], exact), 3),
                    "rows of 10": round(float(np.mean([len(a) for a in found["filtered"]])), 1),
                    "iterative: recall": round(recall(found["iterative"], exact), 3),
                    "iterative p50 ms": ms_at(ms["iterative"], 50),
                }
            )
    return Table("right rows (goal 1: at least 0.95 each)", tuple(rows), note)


def _few_against_all(space: Space, corpus: Corpus, visible: dict[str, Visible]) -> Table:
    seen = visible["one"]
    rows: list[dict[str, Cell]] = []
    for name, goal in (("one", "1.25"), ("five", "4")):
        seen = visible[name]
        _, ms = timed(
            seen.reader,
            {
                "ours": ours(corpus, seen, Route(Path.INDEX)),
                "all": global_index(),
            },
            np.concatenate([mixed(space, corpus, seen) for _ in range(3)]),
        )
        rows.append(
            {
                "collections": name,
                "p50 ms": ms_at(ms["ours"], 50),
                "p95 ms": ms_at(ms["ours"], 95),
                "one index, unfiltered: p50 ms": ms_at(ms["all"], 50),
                "p95": ms_at(ms["all"], 95),
                "ratio of p95": round(ms_at(ms["ours"], 95) / ms_at(ms["all"], 95), 2),
                "goal": f"≤ {goal}",
            }
        )
    return Table("few collections against everything, at ef 100 (goal 2)", tuple(rows))


def _paths(space: Space, corpus: Corpus, visible: dict[str, Visible]) -> Table:
    rows: list[dict[str, Cell]] = []
    for name in ("0.5 %", "one", "5 %", "five", "ten", "50 %", "all"):
        seen = visible[name]
        ways = {path.value: ours(corpus, seen, Route(path)) for path in Path}
        if name == "all":
            ways["one index"] = global_index()
        found, ms = timed(
            seen.reader, {"chosen": ours(corpus, seen), **ways}, mixed(space, corpus, seen)
        )
        good = {way: recall(found[way], found["exact"]) for way in ["chosen", *ways]}
        fastest = min(
            (w for w in ways if good[w] >= upkeep.LEAST_RECALL and w != "one index"),
            key=lambda way: ms_at(ms[way], 50),
        )
        rows.append(
            {
                "visible": name,
                "rows": len(corpus.rows_in(seen.collections)),
                "collections": len(seen.collections),
                **{f"{way}: ms": ms_at(ms[way], 50) for way in ("exact", "index", "broad")},
                **{f"{way}: recall": round(good[way], 3) for way in ("index", "broad")},
                "one index: ms": ms_at(ms["one index"], 50) if name == "all" else None,
                "chosen: ms": ms_at(ms["chosen"], 50),
                "chosen: recall": round(good["chosen"], 3),
                "chosen / fastest": round(ms_at(ms["chosen"], 50) / ms_at(ms[fastest], 50), 2),
            }
        )
    return Table(
        "the path chosen against the fastest with recall of 0.95 (goal 3: at most 2)",
        tuple(rows),
        "medians of mixed queries; one index over everything is no path of ours",
    )


def _policies(space: Space, corpus: Corpus, visible: dict[str, Visible]) -> Table:
    """Row-level security is taken off and put back between blocks of queries."""
    rows: list[dict[str, Cell]] = []
    with scratch.as_owner() as owner:
        for name in ("0.5 %", "one", "five", "50 %", "all"):
            seen, with_, without = visible[name], [], []
            for _ in range(3):
                queries = mixed(space, corpus, seen)
                search = {"ours": ours(corpus, seen)}
                with_.append(timed(seen.reader, search, queries)[1]["ours"])
                for table in ("retrieval_embedding", "retrieval_indexpart"):
                    owner.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
                try:
                    without.append(timed(seen.reader, search, queries)[1]["ours"])
                finally:
                    for table in ("retrieval_embedding", "retrieval_indexpart"):
                        owner.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            held, free = np.concatenate(with_), np.concatenate(without)
            rows.append(
                {
                    "visible": name,
                    "with: p50 ms": ms_at(held, 50),
                    "p95": ms_at(held, 95),
                    "without: p50 ms": ms_at(free, 50),
                    "p95 ": ms_at(free, 95),
                    "ratio of p50": round(ms_at(held, 50) / ms_at(free, 50), 2),
                    "ratio of p95": round(ms_at(held, 95) / ms_at(free, 95), 2),
                }
            )
    return Table("row-level security and literals against none (goal 4: at most 1.25)", tuple(rows))


def _evenness(space: Space, corpus: Corpus, visible: dict[str, Visible]) -> Table:
    rows: list[dict[str, Cell]] = []
    for name in ("0.5 %", "5 %", "five", "50 %", "all"):
        seen = visible[name]
        queries = np.concatenate([mixed(space, corpus, seen) for _ in range(3)])
        _, ms = timed(seen.reader, {"ours": ours(corpus, seen)}, queries)
        low, high = ms_at(ms["ours"], 5), ms_at(ms["ours"], 95)
        rows.append({"visible": name, "p5 ms": low, "p95 ms": high, "ratio": round(high / low, 2)})
    return Table("mixed queries over one permitted set (goal 5: at most 3)", tuple(rows))
