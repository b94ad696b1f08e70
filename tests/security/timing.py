"""How long searches take, where something near is hidden from who searches and where nothing is."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psycopg

from retrieval import access, index
from retrieval.models import Collection, EncoderVersion, Purpose, User

DIMENSIONS = 16
OWN_IMAGES = 2500
"""More than an exact scan is taken for: the HNSW index is what could tell."""
HIDDEN_NEAR = 2000
TRIES = 3

Superuser = psycopg.Connection[tuple[Any, ...]]
Vector = np.ndarray
Probe = Callable[[Vector], object]


def unit(rows: np.ndarray) -> np.ndarray:
    """(N, DIMENSIONS) float, unit L2 rows."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)  # type: ignore[no-any-return]


def fill(
    superuser: Superuser, collection: Collection, encoder: EncoderVersion, rows: np.ndarray
) -> None:
    """Index one image for each row: (N, DIMENSIONS). Past the application, for its speed."""
    superuser.execute("SET session_replication_role = replica")
    with superuser.cursor().copy(
        "COPY retrieval_embedding (collection_id, image_id, encoder_id, region, vector) FROM STDIN"
    ) as copy:
        ids = new_ids(len(rows))
        for image_id, row in zip(ids, rows, strict=True):
            text = "[" + ",".join(f"{v:.4f}" for v in row) + "]"
            copy.write_row((collection.pk, image_id, encoder.pk, 0, text))
    superuser.execute("SET session_replication_role = DEFAULT")


def new_ids(count: int) -> list[str]:
    return [str(np.random.default_rng().bytes(16).hex()) for _ in range(count)]


def through_the_appliance(reader: User, collection: Collection, encoder: EncoderVersion) -> Probe:
    """The nearest images as a search finds them, without what comes before and after: that would
    only hide a difference in noise."""

    def probe(vector: Vector) -> object:
        with access.acting_as(reader, Purpose.TREATMENT):
            return index.nearest(vector, within=[collection.pk], encoder=encoder, limit=20)

    return probe


def leaking(probe: Probe, near: Vector) -> Probe:
    """The same search, if it had twice the work wherever something near is hidden."""

    def slower(vector: Vector) -> object:
        if float(vector @ near) > 0.9:
            probe(vector)
        return probe(vector)

    return slower


def times(probe: Probe, near: Vector, far: Vector, count: int) -> tuple[list[float], list[float]]:
    """Seconds of `count` probes, half near what is hidden and half not, in an order by chance.

    near, far: (DIMENSIONS,) each; every probe moves a little from them, as an outsider's would,
    and is repeated to leave out what the machine was busy with: the best of TRIES counts.
    """
    chance = np.random.default_rng(5)
    order = chance.permutation(np.repeat([True, False], count // 2))
    taken: dict[bool, list[float]] = {True: [], False: []}
    for is_near in order:
        aim = near if is_near else far
        vector = unit(aim + 0.02 * chance.normal(size=DIMENSIONS)).astype(np.float32)
        taken[bool(is_near)].append(min(seconds(probe, vector) for _ in range(TRIES)))
    return taken[True], taken[False]


def seconds(probe: Probe, vector: Vector) -> float:
    began = time.perf_counter()
    probe(vector)
    return time.perf_counter() - began


def auc(near: Sequence[float], far: Sequence[float]) -> float:
    """The chance that a probe near something hidden takes longer than one that is not, or, where
    that is below a half, shorter: an outsider would use either (Mann and Whitney 1947)."""
    a, b = np.asarray(near)[:, None], np.asarray(far)[None, :]
    area = float(np.mean((a > b) + 0.5 * (a == b)))
    return max(area, 1 - area)


def standard_error(near: Sequence[float], far: Sequence[float]) -> float:
    """Of an AUC of a half (Hanley and McNeil 1982, eq. 1 at 1/2)."""
    m, n = len(near), len(far)
    return float(np.sqrt((m + n + 1) / (12 * m * n)))
