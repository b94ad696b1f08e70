"""Every goal of the index beside what one run found."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from workers.benchmark.table import Cell, Table


@dataclass(frozen=True)
class Goal:
    """`column` of the rows of the table whose title has `table` in it, where `rows` fits their
    first cell. `most`: it is a bound from above, else from below."""

    number: int
    what: str
    table: str
    column: str
    bound: float
    most: bool = True
    rows: Callable[[str], bool] = bool


def _after_fresh(what: str) -> bool:
    return what != "fresh"


GOALS = (
    Goal(1, "recall@10", "goal 1", "recall@10", 0.95, most=False),
    Goal(2, "one collection / everything, p95", "goal 2", "ratio of p95", 1.25, rows="one".__eq__),
    Goal(2, "five collections / everything", "goal 2", "ratio of p95", 4, rows="five".__eq__),
    Goal(3, "path chosen / fastest", "goal 3", "chosen / fastest", 2),
    Goal(4, "row-level security / none, p50", "goal 4", "ratio of p50", 1.25),
    Goal(4, "the same, p95", "goal 4", "ratio of p95", 1.25),
    Goal(5, "p95 / p5", "goal 5", "ratio", 3),
    Goal(6, "HNSW / faiss", "(goal 6)", "ratio", 4, rows="HNSW".__eq__),
    Goal(6, "exact / faiss", "(goal 6)", "ratio", 3.2, rows="exact".__eq__),
    Goal(6, "building / faiss", "(goal 6: ", "against faiss", 2.5),
    Goal(7, "API / SQL, p95", "goal 7", "API / SQL", 1.5),
    Goal(7, "search / SQL, p95", "goal 7", "search / SQL", 1.5),
    Goal(7, "the log's share of p95", "goal 7", "the log's share", 0.1),
    Goal(8, "recall after churn / fresh", "goal 8", "against fresh", 0.98, False, _after_fresh),
)


def summary(tables: Sequence[Table]) -> Table:
    """The worst of each goal's numbers."""
    return Table("the goals", tuple(_row(goal, tables) for goal in GOALS))


def _row(goal: Goal, tables: Iterable[Table]) -> dict[str, Cell]:
    found = [
        float(value)
        for table in tables
        if goal.table in table.title
        for row in table.rows
        if goal.rows(str(next(iter(row.values()))))
        and isinstance(value := row.get(goal.column), int | float)
    ]
    worst = max(found) if goal.most else min(found)
    return {
        "goal": goal.number,
        "what": goal.what,
        "asked": f"{'≤' if goal.most else '≥'} {goal.bound:g}",
        "worst": worst,
        "all": ", ".join(f"{value:g}" for value in found),
        "met": "yes" if (worst <= goal.bound if goal.most else worst >= goal.bound) else "NO",
    }
