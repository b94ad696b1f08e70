"""Ways to the nearest rows that are measured beside one another, and how they are timed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from django.db import connection
from psycopg import sql

from retrieval import access, index, upkeep
from retrieval.index import FULL_EF_SEARCH, Route
from retrieval.index.asked import halfvec
from retrieval.models import Collection, Purpose, User
from workers.benchmark import scratch, synthetic
from workers.benchmark.synthetic import Corpus, Kind, Space

K = 10
QUERIES = 60
KINDS: tuple[Kind, ...] = ("image", "words", "foreign")

Answer = list[object]
Way = Callable[[np.ndarray], Answer]


@dataclass(frozen=True)
class Visible:
    """Whom to search as, and what they may see."""

    name: str
    reader: User
    collections: list[Collection]

    @property
    def ids(self) -> list[int]:
        return [collection.pk for collection in self.collections]


def who_sees(corpus: Corpus) -> dict[str, Visible]:
    c = corpus.collections
    chosen = {
        "0.5 %": c[:1],
        "5 %": c[1:2],
        "one": c[2:3],
        "five": c[2:7],
        "ten": c[2:12],
        "50 %": c[2:27],
        "all": c,
    }
    return {
        name: Visible(name, synthetic.reader(f"reader {number}", collections), collections)
        for number, (name, collections) in enumerate(chosen.items())
    }


def copy_to_global_table(corpus: Corpus) -> float:
    """COPY the same vectors into one table without policies or keys; seconds it took.

    As one who sees everything would have them: `build_global_index` makes their one index.
    """
    head = np.array([synthetic.DIMENSIONS, 0], ">i2").tobytes()
    encoder = _field(corpus.encoder.pk.to_bytes(8))
    half = np.concatenate(corpus.vectors).astype(">f2")
    with scratch.as_owner() as owner:
        owner.execute(
            "CREATE TABLE global_embedding"
            " (collection_id bigint, image_id uuid, encoder_id bigint, vector halfvec)"
        )
        owner.execute("ALTER TABLE global_embedding ALTER COLUMN vector SET STORAGE PLAIN")
        owner.execute("GRANT SELECT ON global_embedding TO cloister_web")
        started = time.perf_counter()
        # COPY's binary form: the fields' number, and each one's length before it.
        with owner.cursor().copy("COPY global_embedding FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for collection, image, row in zip(
                corpus.of_collection, corpus.images, half, strict=True
            ):
                ids = _field(collection.to_bytes(8)) + _field(image.bytes) + encoder
                copy.write(b"\0\4" + ids + _field(head + row.tobytes()))
            copy.write(b"\xff\xff")
        return time.perf_counter() - started


def _field(content: bytes) -> bytes:
    return len(content).to_bytes(4) + content


def build_global_index() -> float:
    """Seconds to build one index over everything, as those of the partitions are built."""
    with scratch.as_owner() as owner:
        owner.execute(f"SET maintenance_work_mem = '{upkeep.BUILD_MEMORY}'")
        owner.execute(f"SET max_parallel_maintenance_workers = {upkeep.BUILD_WORKERS}")
        started = time.perf_counter()
        owner.execute(
            "CREATE INDEX ON global_embedding USING hnsw"
            f" ((vector::halfvec({synthetic.DIMENSIONS})) halfvec_cosine_ops)"
            " WITH (m = 16, ef_construction = 128)"
        )
        return time.perf_counter() - started


def settle() -> None:
    with scratch.as_owner() as owner:
        owner.execute("VACUUM ANALYZE retrieval_embedding")
        owner.execute("VACUUM ANALYZE global_embedding")


def ours(corpus: Corpus, visible: Visible, route: Route | None = None) -> Way:
    def search(query: np.ndarray) -> Answer:
        found = index.nearest(
            query, within=visible.ids, encoder=corpus.encoder, limit=K, route=route
        )
        return [n.image_id for n in found]

    return search


def global_index(visible: Visible | None = None, *, on: str = "off", exact: bool = False) -> Way:
    """One index over everything; `visible` filters behind it. `on`: hnsw.iterative_scan.

    `exact`: no index, and one process.
    """
    d = synthetic.DIMENSIONS
    which = "TRUE" if visible is None else f"collection_id IN ({', '.join(map(str, visible.ids))})"

    def search(query: np.ndarray) -> Answer:
        # As ours: one message, and the vector in as few digits as it has.
        statement = sql.SQL(
            f"SELECT set_config('enable_indexscan', '{'off' if exact else 'on'}', true),"  # noqa: S608
            " set_config('max_parallel_workers_per_gather', '0', true),"
            f" set_config('hnsw.ef_search', '{FULL_EF_SEARCH}', true),"
            f" set_config('hnsw.iterative_scan', '{on}', true);"
            f" SELECT image_id, distance FROM (SELECT image_id, vector::halfvec({d}) <=> {{vector}}"
            f" AS distance FROM global_embedding WHERE {which})"
            f" AS found ORDER BY distance LIMIT {K}"
        )
        with connection.cursor() as cursor:
            cursor.execute(statement.format(vector=halfvec(query)))
            cursor.nextset()
            return [image_id for image_id, _ in cursor.fetchall()]

    return search


def timed(
    reader: User, searches: dict[str, Way], queries: np.ndarray
) -> tuple[dict[str, list[Answer]], dict[str, np.ndarray]]:
    """What each search found, and its milliseconds: in turns, the first query not counted."""
    found: dict[str, list[Answer]] = {name: [] for name in searches}
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for query in [queries[0], *queries]:
        for name, search in searches.items():
            with access.acting_as(reader, Purpose.TREATMENT):
                started = time.perf_counter()
                answer = search(query)
                seconds[name].append(time.perf_counter() - started)
            found[name].append(answer)
    return (
        {name: answers[1:] for name, answers in found.items()},
        {name: 1000 * np.array(values[1:]) for name, values in seconds.items()},
    )


def recall(found: Sequence[Answer], wanted: Sequence[Answer]) -> float:
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)])
    )


def ms_at(values: np.ndarray, percentile: float) -> float:
    return round(float(np.percentile(values, percentile)), 2)


def queries_for(space: Space, corpus: Corpus, visible: Visible, kind: Kind) -> np.ndarray:
    numbers = [corpus.collections.index(c) for c in visible.collections]
    return space.queries(kind, numbers, QUERIES)


def mixed(space: Space, corpus: Corpus, visible: Visible) -> np.ndarray:
    rows = np.concatenate([queries_for(space, corpus, visible, kind) for kind in KINDS])
    return space.rng.permutation(rows)[:QUERIES]
