"""A certificate checked the way an auditor does it: the signature, then all that ε rests on.

Needs the document and the appliance's public key; no database and no key file. A certificate with
a field more or less than those known here is refused: it would be read without being understood.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from retrieval import certificates
from retrieval.budget import Mechanism
from retrieval.errors import AccountingDisagrees
from workers.finetune import account

MOST_STEPS: Final = 1_000_000
EXACT: Final = 1e-9  # relative: products of the document's own numbers

SAMPLER: Final = "poisson"
PER_UNIT: Final = "per unit"
PER_UNIT_AND_GROUP: Final = "per unit and group"
PER_GROUP: Final = "per group"
CLIPPING_OF: Final = {
    "least_squares": (PER_UNIT,),
    "per_example": (PER_UNIT,),
    "adapter": (PER_UNIT,),
    "grouped_contrastive": (PER_UNIT_AND_GROUP, PER_GROUP),
}
"""What each objective may clip. Anything else bounds nobody's share of its sum."""
ONE_STEP: Final = ("least_squares",)

NUMBERS: Final = (
    "clipping_norm",
    "group_clipping_norm",
    "sensitivity",
    "noise_deviation",
    "epsilon",
    "delta",
    "cross_check_epsilon",
    "collection_epsilon",
    "collection_delta",
)
COUNTS: Final = ("units", "steps", "collection", "audit_reserved", "audit_settled")
DIGESTS: Final = ("data_digest", "base_digest", "weights_digest", "code_version")
WORDS: Final = (
    "sampler",
    "clipping",
    "accountant",
    "accountant_version",
    "cross_check",
    "cross_check_version",
    "objective",
    "base_encoder",
    "certificate",
    "issued_at",
    "encoder",
    "unit",
    "reservation",
)
ATTACKS: Final = ("attack", "twin_attack")
ATTACK: Final = frozenset({"epsilon_lower_bound", "membership_auc", "tpr_at_1_percent_fpr"})
UTILITIES: Final = ("utility_before", "utility_after")
OTHERS: Final = (
    "subject_group",
    "mechanisms",
    "collection_mechanisms",
    "noise_multiplier",
    "sample_rate",
    "promise",
    "not_covered_by_epsilon",
)
FIELDS: Final = frozenset((*NUMBERS, *COUNTS, *DIGESTS, *WORDS, *ATTACKS, *UTILITIES, *OTHERS))
DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Checked:
    """`problem` is empty where everything holds; `again` is None where it was not got so far."""

    fields: Mapping[str, Any]
    again: account.Account | None = None
    problem: str = ""


class _Contradiction(Exception):
    """What the certificate says of itself cannot be. It never leaves this file."""


def check(document: str, public_key: Ed25519PublicKey) -> Checked:
    """Verify the signature, then what the signed numbers say of each other."""
    signed = certificates.verify(document, public_key)
    if not signed.holds:
        return Checked(signed.fields, problem=signed.problem)
    fields, again = signed.fields, None
    try:
        _require_form(fields)
        mechanisms = _mechanisms(fields["mechanisms"])
        _require_training(fields, mechanisms)
        again = account.account(mechanisms, fields["delta"])
        _require_account(fields, again)
        _require_collection(fields, mechanisms, again)
        _require_proof(fields)
    except (_Contradiction, AccountingDisagrees) as found:
        return Checked(fields, again, str(found))
    return Checked(fields, again)


def _require(holds: object, problem: str) -> None:
    if not holds:
        raise _Contradiction(problem)


def _require_form(fields: Mapping[str, Any]) -> None:
    """Every field is there, of its kind, and finite."""
    for name in sorted(FIELDS ^ fields.keys()):
        _require(name not in FIELDS, f"it lacks {name}")
        raise _Contradiction("it holds a field that no certificate has")
    for name in NUMBERS:
        _require(_is_number(fields[name]), f"its {name} is no number")
    for name in COUNTS:
        _require(type(fields[name]) is int and fields[name] > 0, f"its {name} is no count")
    for name in WORDS:
        _require(isinstance(fields[name], str) and fields[name], f"its {name} is no text")
    for name in DIGESTS:
        _require(
            isinstance(fields[name], str) and DIGEST.fullmatch(fields[name]),
            f"its {name} is no digest",
        )
    for name in (*ATTACKS, *UTILITIES):
        inner = fields[name]
        _require(isinstance(inner, dict) and inner, f"its {name} is told in no numbers")
        _require(all(_is_number(one) for one in inner.values()), f"its {name} is no number")
    for name in ATTACKS:
        _require(fields[name].keys() == ATTACK, f"its {name} is not what an attack tells")
    group = fields["subject_group"]
    _require(group is None or type(group) is int, "its subject_group is none")
    _require(fields["promise"] == certificates.PROMISE, "it promises something else")
    _require(
        fields["not_covered_by_epsilon"] == list(certificates.NOT_COVERED),
        "it tells otherwise what ε does not cover",
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]


def _mechanisms(rows: Any) -> list[Mechanism]:
    try:
        found = [Mechanism(**row) for row in rows]
    except (TypeError, ValueError) as error:
        raise _Contradiction("it tells of mechanisms that are none") from error
    whole = all(type(one.steps) is int for one in found)
    _require(found and whole, "it tells of no mechanism")
    _require(sum(one.steps for one in found) <= MOST_STEPS, "it tells of more steps than any run")
    return found


def _require_training(fields: Mapping[str, Any], mechanisms: Sequence[Mechanism]) -> None:
    """The sampler, the clipping and the noise are those that ε is an ε of."""
    _require(
        fields["sampler"] == SAMPLER,
        f"its units were drawn by another sampler than {SAMPLER}: ε is not that of its mechanisms",
    )
    objective, clipping = fields["objective"], fields["clipping"]
    _require(objective in CLIPPING_OF, "its objective is not known to bound a unit's share")
    _require(
        clipping in CLIPPING_OF[objective],
        f"it was not clipped {' or '.join(CLIPPING_OF[objective])}: no unit's share is bounded",
    )
    unit, group = fields["clipping_norm"], fields["group_clipping_norm"]
    _require(
        (unit > 0, group > 0) == (clipping != PER_GROUP, clipping != PER_UNIT),
        "its clipping norms are not those of its clipping",
    )
    sensitivity = unit + 2 * group
    _require(
        math.isclose(fields["sensitivity"], sensitivity, rel_tol=EXACT),
        f"its clipping gives a sensitivity of {sensitivity:.6g}",
    )
    steps = sum(one.steps for one in mechanisms)
    _require(fields["steps"] == steps, f"its mechanisms have {steps} steps")
    _require(objective not in ONE_STEP or steps == 1, "its objective takes one step")
    kinds = {(one.noise_multiplier, one.sample_rate) for one in mechanisms}
    _require(len(kinds) == 1, "it was trained with more than one noise")
    ((noise, rate),) = kinds
    _require(
        (fields["noise_multiplier"], fields["sample_rate"]) == (noise, rate),
        "its noise or its sample rate is not that of its mechanisms",
    )
    _require(
        math.isclose(fields["noise_deviation"], noise * sensitivity, rel_tol=EXACT),
        f"its noise should deviate by {noise * sensitivity:.6g}",
    )
    _require(fields["unit"] in ("subject", "image"), "its unit of privacy is neither")
    _require(
        0 < fields["delta"] <= fields["collection_delta"] < 1 / fields["units"],
        f"δ is not below 1/{fields['units']}, or above the collection's",
    )


def _require_account(fields: Mapping[str, Any], again: account.Account) -> None:
    claimed, second = fields["epsilon"], fields["cross_check_epsilon"]
    _require(fields["accountant"] == again.accountant, f"{again.accountant} counts it, not that")
    _require(fields["cross_check"] == "dp-accounting", "its second accountant is unknown")
    _require(
        math.isclose(claimed, again.epsilon, rel_tol=account.AGREEMENT),
        f"it claims ε {claimed:.6g}; its mechanisms give {again.epsilon:.6g}",
    )
    _require(
        math.isclose(second, again.cross_check_epsilon, rel_tol=account.AGREEMENT),
        f"it claims {second:.6g} of the second accountant, who says"
        f" {again.cross_check_epsilon:.6g}",
    )


def _require_collection(
    fields: Mapping[str, Any], own: Sequence[Mechanism], alone: account.Account
) -> None:
    """What all trainings on the collection spent, this one among them."""
    listed = fields["collection_mechanisms"]
    _require(isinstance(listed, list) and listed, "it does not tell the collection's mechanisms")
    # Subjects of no group may have been trained on by nobody: their list is empty then.
    charged = [_mechanisms(rows) for rows in listed if rows]
    _require(
        any(_steps(own) <= _steps(one) for one in charged),
        "its training is not among the collection's",
    )
    claimed, delta = fields["collection_epsilon"], fields["collection_delta"]
    found = []
    for one in charged:
        if _steps(one) == _steps(own) and delta == alone.delta:
            found.append(alone.epsilon)
        else:
            found.append(account.account(one, delta).epsilon)
    _require(
        math.isclose(claimed, max(found), rel_tol=account.AGREEMENT),
        f"it claims ε {claimed:.6g} of the collection; its mechanisms give {max(found):.6g}",
    )


def _steps(mechanisms: Sequence[Mechanism]) -> Counter[tuple[float, float]]:
    steps: Counter[tuple[float, float]] = Counter()
    for one in mechanisms:
        steps[one.noise_multiplier, one.sample_rate] += one.steps
    return steps


def _require_proof(fields: Mapping[str, Any]) -> None:
    """Attacks and utility are numbers that such things have, and the attack refutes nothing."""
    shares = [fields[name][one] for name in ATTACKS for one in ATTACK - {"epsilon_lower_bound"}]
    shares += [value for name in UTILITIES for value in fields[name].values()]
    _require(all(value <= 1 for value in shares), "a share of its proof is above 1")
    _require(
        fields["utility_before"].keys() == fields["utility_after"].keys(),
        "its utility was measured by different measures before and after",
    )
    _require(
        fields["attack"]["epsilon_lower_bound"] <= fields["epsilon"],
        "its attack proves a larger ε than it claims",
    )
