"""Goal 7: a whole search beside the SQL that it stands on, without its encoding."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http import HTTPStatus

import numpy as np
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pgvector import HalfVector

from retrieval import access, audit, confidence, queue, tokens
from retrieval.index import FULL_EF_SEARCH
from retrieval.models import Purpose, Role, Scope, User
from retrieval.query import Query
from retrieval.search import search
from workers.benchmark import synthetic
from workers.benchmark.synthetic import Corpus, Space
from workers.benchmark.table import Cell, Table
from workers.benchmark.ways import Answer, Visible, Way, mixed, ms_at, ours

LIMIT = 20
REPEATS = 3


def whole(space: Space, corpus: Corpus, visible: dict[str, Visible]) -> Table:
    """Queries in turns: bare SQL, the nearest rows by our paths, `search`, and the API.

    The worker's answer is there at once; all else is as ever: grants, row-level security, the
    watch over a token's queries, the log.
    """
    rows = [
        _one_set(space, corpus, visible[name]) for name in ("0.5 %", "one", "five", "50 %", "all")
    ]
    return Table(
        "a whole search against its SQL (goal 7: p95 at most 1.5)",
        tuple(rows),
        "SQL: one statement in a transaction with context and settings, twenty rows, nothing else;"
        " processor time is of this process, which is the web's; the log's share is of the API's"
        " p95, with its commit to the disk",
    )


def _one_set(space: Space, corpus: Corpus, seen: Visible) -> dict[str, Cell]:
    queries = np.concatenate([mixed(space, corpus, seen) for _ in range(REPEATS)])
    client = _program(seen)
    with _encoded_at_once(space, corpus) as worker, _record_timed() as log_s:
        ways: dict[str, Way] = {
            "sql": _bare_sql(corpus, seen),
            "nearest": _in_transaction(seen.reader, ours(corpus, seen)),
            "search": _searched(seen.reader),
            "api": _asked(client),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        busy: dict[str, list[float]] = {name: [] for name in ways}
        log: list[float] = []
        for query in [queries[0], *queries]:
            worker.append(query)
            for name, way in ways.items():
                log_s.clear()
                started, busy_before = time.perf_counter(), time.process_time()
                way(query)
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(time.process_time() - busy_before)
            log.append(sum(log_s))
        messages = {name: _messages(partial(way, query)) for name, way in ways.items()}
    ms = {name: 1000 * np.array(values[1:]) for name, values in seconds.items()}
    busy_ms = {name: 1000 * np.array(values[1:]) for name, values in busy.items()}
    sql, api = ms_at(ms["sql"], 95), ms_at(ms["api"], 95)
    return {
        "visible": seen.name,
        "SQL p50 ms": ms_at(ms["sql"], 50),
        "p95": sql,
        "nearest rows p95": ms_at(ms["nearest"], 95),
        "search p50": ms_at(ms["search"], 50),
        "search p95": ms_at(ms["search"], 95),
        "API p50": ms_at(ms["api"], 50),
        "API p95": api,
        "search / SQL": round(ms_at(ms["search"], 95) / sql, 2),
        "API / SQL": round(api / sql, 2),
        "search: messages": messages["search"],
        "processor ms": ms_at(busy_ms["search"], 50),
        "API: messages": messages["api"],
        "processor ms ": ms_at(busy_ms["api"], 50),
        "the log's share": round(ms_at(1000 * np.array(log[1:]), 95) / api, 3),
    }


def _messages(ask: Callable[[], object]) -> int:
    """How many went to the database."""
    with CaptureQueriesContext(connection) as captured:
        ask()
    return len(captured)


def _bare_sql(corpus: Corpus, seen: Visible) -> Way:
    """What a client would send that knows whom it asks for, and trusts itself with the rest."""
    d, ids = synthetic.DIMENSIONS, ", ".join(map(str, seen.ids))

    def run(query: np.ndarray) -> Answer:
        with access.acting_as(seen.reader, Purpose.TREATMENT), connection.cursor() as cursor:
            cursor.execute(
                f"SELECT set_config('hnsw.ef_search', '{FULL_EF_SEARCH}', true),"
                " set_config('hnsw.iterative_scan', 'strict_order', true),"
                " set_config('jit', 'off', true)"
            )
            cursor.execute(
                f"SELECT image_id, vector::halfvec({d}) <=> '{HalfVector(query).to_text()}'"  # noqa: S608
                f"::halfvec({d}) AS distance FROM retrieval_embedding"
                f" WHERE collection_id IN ({ids}) AND encoder_id = {corpus.encoder.pk}"
                f" ORDER BY distance LIMIT {LIMIT}"
            )
            return [image_id for image_id, _ in cursor.fetchall()]

    return run


def _in_transaction(reader: User, way: Way) -> Way:
    def run(query: np.ndarray) -> Answer:
        with access.acting_as(reader, Purpose.TREATMENT):
            return way(query)

    return run


def _searched(reader: User) -> Way:
    def run(_query: np.ndarray) -> Answer:
        answer = search(Query("a"), actor=reader, purpose=Purpose.TREATMENT, limit=LIMIT)
        return [hit.image_id for hit in answer.hits]

    return run


def _asked(client: Client) -> Way:
    body = {"words": "a", "limit": LIMIT}

    def run(_query: np.ndarray) -> Answer:
        answer = client.post("/api/v1/search", body, content_type="application/json")
        if answer.status_code != HTTPStatus.OK:
            raise RuntimeError(f"the API answered {answer.status_code}")
        return list(answer.json()["hits"])

    return run


def _program(seen: Visible) -> Client:
    """A program that may search what the reader may."""
    operator = User.objects.get(username=access.OPERATOR)
    account = tokens.open_account(
        f"program of {seen.name}", responsible=operator, opened_by=operator
    )
    for collection in seen.collections:
        access.give_grant(
            collection, Role.SEARCHER, [Purpose.TREATMENT], user=account, granted_by=operator
        )
    _, text = tokens.issue(
        account,
        name="benchmark",
        scopes=[Scope.SEARCH],
        collections=seen.ids,
        purposes=[Purpose.TREATMENT],
        expires_at=timezone.now() + timedelta(hours=2),
        issued_by=operator,
        per_minute=600,
        queries_per_day=100_000,
    )
    return Client(SERVER_NAME="127.0.0.1", headers={"Authorization": f"Bearer {text}"})


@contextmanager
def _encoded_at_once(space: Space, corpus: Corpus) -> Iterator[list[np.ndarray]]:
    """The last of the list is every query's vector."""
    asked: list[np.ndarray] = []
    others = tuple(space.queries("words", [0], len(confidence.OTHER_WORDS)))

    def encode_query(parts: list[queue.ToEncode], **_options: object) -> queue.QueryVectors:
        vectors = others if len(parts) > 1 else (asked[-1],)
        return queue.QueryVectors(corpus.encoder.name, vectors)

    before = queue.encode_query
    queue.encode_query = encode_query  # type: ignore[assignment]
    try:
        yield asked
    finally:
        queue.encode_query = before


@contextmanager
def _record_timed() -> Iterator[list[float]]:
    """Seconds that went into entries of the log since the list was emptied."""
    took: list[float] = []
    before = audit.record

    def record(*arguments: object, **details: object) -> int:
        started = time.perf_counter()
        try:
            return before(*arguments, **details)  # type: ignore[arg-type]
        finally:
            took.append(time.perf_counter() - started)

    audit.record = record
    try:
        yield took
    finally:
        audit.record = before
