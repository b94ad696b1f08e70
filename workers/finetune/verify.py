"""A certificate checked the way an auditor does it: the signature, then ε anew from its mechanisms.

Needs the document and the appliance's public key; no database and no key file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from retrieval import certificates
from retrieval.budget import Mechanism
from retrieval.errors import AccountingDisagrees
from workers.finetune import account

MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Checked:
    """`problem` is empty where everything holds; `again` is None where it was not got so far."""

    fields: Mapping[str, Any]
    again: account.Account | None = None
    problem: str = ""


def check(document: str, public_key: Ed25519PublicKey) -> Checked:
    """Verify the signature, then what the signed numbers say of each other."""
    signed = certificates.verify(document, public_key)
    if not signed.holds:
        return Checked(signed.fields, problem=signed.problem)
    fields = signed.fields
    try:
        mechanisms = [Mechanism(**one) for one in fields["mechanisms"]]
        claimed, second = float(fields["epsilon"]), float(fields["cross_check_epsilon"])
        delta, units = float(fields["delta"]), int(fields["units"])
        bound = float(fields["attack"]["epsilon_lower_bound"])
        steps = sum(one.steps for one in mechanisms)
    except (KeyError, TypeError, ValueError):
        return Checked(fields, problem="it lacks the numbers of a training")
    # Written so that NaN passes none of them.
    if not (mechanisms and steps <= MOST_STEPS and units >= 1 and 0 < delta < 1 / units):
        return Checked(fields, problem=f"δ is not below 1/{units}, or no training is told")
    try:
        again = account.account(mechanisms, delta)
    except AccountingDisagrees as error:
        return Checked(fields, problem=str(error))
    return Checked(fields, again, _mismatch(again, claimed, second, bound))


def _mismatch(again: account.Account, claimed: float, second: float, bound: float) -> str:
    if not math.isclose(claimed, again.epsilon, rel_tol=account.AGREEMENT):
        return f"it claims ε {claimed:.6g}; its mechanisms give {again.epsilon:.6g}"
    if not math.isclose(second, again.cross_check_epsilon, rel_tol=account.AGREEMENT):
        return (
            f"it claims {second:.6g} of the second accountant, who says"
            f" {again.cross_check_epsilon:.6g}"
        )
    if not bound <= claimed:
        return "its attack proves a larger ε than it claims"
    return ""
