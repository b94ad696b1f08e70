"""Whether the ledger's rows are what the log says of them.

The rows can be changed by whoever owns the database; the log cannot, unseen. So all that was set,
reserved and charged is derived anew from its entries, in order, and held against the rows. What
ε follows from the mechanisms is the accountant's question, and `finetune verify` asks it.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from retrieval.models import Charge, Kind

KINDS = [
    Kind.BUDGET_CHANGED,
    Kind.BUDGET_RESERVED,
    Kind.BUDGET_RESUMED,
    Kind.BUDGET_SETTLED,
    Kind.BUDGET_VOIDED,
    Kind.MODEL_CERTIFIED,
]

# One statement is one moment: a training that reserves meanwhile is in all of it or in none.
ROWS = """
    SELECT 'log', number, jsonb_build_object('kind', kind, 'actor', actor_id, 'details', details)
    FROM retrieval_auditevent WHERE kind = ANY (%s)
    UNION ALL SELECT 'reservation', reserved_event, to_jsonb(r) FROM retrieval_reservation r
    UNION ALL SELECT 'budget', collection_id, to_jsonb(b) FROM retrieval_budget b
    ORDER BY 1, 2
"""

RESERVED = (
    "collection",
    "subject_group",
    "epsilon",
    "delta",
    "total_epsilon",
    "budget_delta",
    "unit",
    "units",
    "plan",
)
CLOSED = ("state", "spent", "epsilon", "closed_total_epsilon", "closed_event")
COLUMNS = {"collection": "collection_id", "subject_group": "subject_group_id"}


@dataclass(frozen=True)
class Comparison:
    """`problem` is empty where all rows are as the log says; `entry` is the one it is about."""

    trainings: int
    problem: str = ""
    entry: int | None = None

    @property
    def holds(self) -> bool:
        return not self.problem


class _Differs(Exception):
    """What the log says cannot be, or is not what the row says."""


@dataclass
class _Replay:
    """The ledger as the entries so far make it."""

    budgets: dict[int, tuple[float, float]] = field(default_factory=dict)  # ε and δ
    budget_entry: dict[int, int] = field(default_factory=dict)
    proposals: dict[int, tuple[int | None, int, float, float]] = field(default_factory=dict)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)  # by reservation


def verify() -> Comparison:
    """Hold the ledger against the log, inside `acting_as` who may read the log.

    Names the first entry that cannot have happened so, else the first row that differs. The log
    itself is believed: `audit.verify` says whether it may be.
    """
    with connection.cursor() as cursor:
        cursor.execute(ROWS, [KINDS])
        found = [(source, int(number), json.loads(row)) for source, number, row in cursor]
    entries = [(number, row) for source, number, row in found if source == "log"]
    replay = _Replay()
    for number, entry in entries:
        try:
            _apply(replay, number, entry)
        except _Differs as difference:
            return Comparison(len(replay.trainings), str(difference), number)
        except (KeyError, TypeError, ValueError):
            return Comparison(len(replay.trainings), "it lacks what such an entry tells", number)
    rows = {row["id"]: row for source, _, row in found if source == "reservation"}
    budgets = {row["collection_id"]: row for source, _, row in found if source == "budget"}
    return _against_rows(replay, rows, budgets)


def _apply(replay: _Replay, number: int, entry: Mapping[str, Any]) -> None:
    told = json.loads(entry["details"])
    if entry["kind"] == Kind.BUDGET_CHANGED:
        _change(replay, number, entry["actor"], told)
    elif entry["kind"] == Kind.BUDGET_RESERVED:
        _reserve(replay, number, told)
    elif entry["kind"] == Kind.MODEL_CERTIFIED:
        _certify(replay, told)
    else:
        _go_on(replay, number, entry["kind"], told)


def _change(replay: _Replay, number: int, actor: int | None, told: Mapping[str, Any]) -> None:
    collection, change = told["collection"], told["change"]
    wanted = (told["max_epsilon"], told["delta"])
    before = replay.budgets.get(collection)
    if change == "raise proposed":
        replay.proposals[told["proposal"]] = (actor, collection, *wanted)
        return
    if change == "raise declined":
        replay.proposals.pop(told["proposal"], None)
        return
    if change == "raised":
        asked = replay.proposals.pop(told["proposal"], None)
        if asked is None or asked[1:] != (collection, *wanted):
            raise _Differs("it raises a budget by what nobody proposed")
        if asked[0] == actor:
            raise _Differs("it raises a budget by one person alone")
    elif before and (wanted[0] > before[0] or wanted[1] > before[1]):
        raise _Differs("it raises a budget by one person alone")
    replay.budgets[collection] = wanted
    replay.budget_entry[collection] = number


def _reserve(replay: _Replay, number: int, told: Mapping[str, Any]) -> None:
    if told["reservation"] in replay.trainings:
        raise _Differs("it reserves what was reserved before")
    max_epsilon, delta = replay.budgets.get(told["collection"], (0.0, 0.0))
    # Written so that NaN does not pass.
    if not (told["epsilon"] <= max_epsilon and told["total_epsilon"] <= max_epsilon):
        raise _Differs("it reserves more than the budget")
    if told["budget_delta"] != delta:
        raise _Differs("it counts at another δ than the budget's")
    replay.trainings[told["reservation"]] = {name: told[name] for name in RESERVED} | {
        "state": Charge.OPEN.value,
        "spent": None,
        "resumed": False,
        "closed_total_epsilon": None,
        "reserved_event": number,
        "closed_event": None,
    }


def _go_on(replay: _Replay, number: int, kind: str, told: Mapping[str, Any]) -> None:
    training = replay.trainings.get(told["reservation"])
    if training is None or training["state"] != Charge.OPEN:
        raise _Differs("it is of a training that was not open")
    if kind == Kind.BUDGET_RESUMED:
        if training["resumed"]:
            raise _Differs("it resumes what was resumed before")
        training["resumed"] = True
        return
    settled = kind == Kind.BUDGET_SETTLED
    if settled and not _steps(told["spent"]) <= _steps(training["plan"]):
        raise _Differs("it settles what was not reserved")
    if not settled and told["epsilon"] != training["epsilon"]:
        raise _Differs("it voids for less than the whole plan")
    training |= {
        "state": (Charge.SETTLED if settled else Charge.VOID).value,
        "spent": told["spent"],
        "epsilon": told["epsilon"],
        "closed_total_epsilon": told["total_epsilon"],
        "closed_event": number,
    }


def _certify(replay: _Replay, told: Mapping[str, Any]) -> None:
    training = replay.trainings.get(told["reservation"])
    if training is None or training["state"] != Charge.SETTLED:
        raise _Differs("it certifies what was not settled")
    if (told["epsilon"], told["delta"]) != (training["epsilon"], training["delta"]):
        raise _Differs("it certifies another ε or δ than was charged")


def _against_rows(
    replay: _Replay, rows: Mapping[str, dict[str, Any]], budgets: Mapping[int, dict[str, Any]]
) -> Comparison:
    count = len(replay.trainings)
    for reservation, training in replay.trainings.items():
        entry = training["reserved_event"]
        row = rows.get(reservation)
        if row is None:
            return Comparison(count, f"reservation {reservation} is gone from the ledger", entry)
        row = row | {"resumed": row["resumed_at"] is not None}
        for name, value in training.items():
            if row[COLUMNS.get(name, name)] != value:
                problem = f"reservation {reservation} has another {name.replace('_', ' ')}"
                closing = name in CLOSED and training["closed_event"]
                return Comparison(count, problem, closing or entry)
    for reservation, row in rows.items():
        if reservation not in replay.trainings:
            problem = f"reservation {reservation} is in the ledger and not on the log"
            return Comparison(count, problem, row["reserved_event"])
    for collection in replay.budgets.keys() | budgets.keys():
        budget = budgets.get(collection)
        stored = budget and (budget["max_epsilon"], budget["delta"])
        if stored != replay.budgets.get(collection):
            problem = f"the budget of collection {collection} is another than was decided"
            return Comparison(count, problem, replay.budget_entry.get(collection))
    return Comparison(count)


def _steps(mechanisms: list[dict[str, Any]]) -> Counter[tuple[float, float]]:
    steps: Counter[tuple[float, float]] = Counter()
    for one in mechanisms:
        steps[one["noise_multiplier"], one["sample_rate"]] += one["steps"]
    return steps
