"""From mechanisms to ε: PRV by Opacus, checked by Google's dp-accounting.

PRV: Gopi, Lee, Wutschitz 2021, arXiv 2106.02848. The check composes privacy loss
distributions (Doroshenko et al. 2022, arXiv 2207.04380): another method, another code base.
Both are for adding or removing one unit, and for Poisson sampling.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import dp_accounting
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.accountant import IAccountant

from retrieval.budget import Mechanism
from retrieval.errors import AccountingDisagrees

AGREEMENT = 0.01
RELATIVE_ERROR = 0.001  # of PRV's interval: well below AGREEMENT
PRECISION = 1e-3  # of calibrated noise
LEAST_ERROR = 1e-4  # below it PRV's grid no longer fits into memory
LARGEST_NOISE = 1000.0


@dataclass(frozen=True)
class Account:
    """What was spent at `delta`, who counted it, and what the second accountant says."""

    epsilon: float
    delta: float
    accountant: str
    accountant_version: str
    cross_check_epsilon: float


def account(mechanisms: Sequence[Mechanism], delta: float) -> Account:
    """ε at `delta` of all mechanisms together.

    Raises AccountingDisagrees where the two accountants differ by 1 % or more: then neither
    number is given out.
    """
    first, name = _epsilon(mechanisms, delta)
    second = cross_check(mechanisms, delta, method=name)
    if abs(first - second) >= AGREEMENT * second:
        raise AccountingDisagrees(f"{name} says {first:.6g}, dp-accounting {second:.6g}")
    return Account(first, delta, name, f"opacus {version('opacus')}", second)


def epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """ε at `delta`, an upper bound; 0 for no mechanism at all."""
    return _epsilon(mechanisms, delta)[0]


def cross_check(mechanisms: Sequence[Mechanism], delta: float, *, method: str = "prv") -> float:
    """ε by dp-accounting: by loss distributions, or by RDP where the first one was RDP."""
    if not mechanisms:
        return 0.0
    second = (
        dp_accounting.rdp.RdpAccountant()
        if method == "rdp"
        else dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-4)
    )
    for mechanism in mechanisms:
        gaussian = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
        event = dp_accounting.PoissonSampledDpEvent(mechanism.sample_rate, gaussian)
        second.compose(event, mechanism.steps)
    return float(second.get_epsilon(delta))


def noise_for(
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    prior: Sequence[Mechanism] = (),
) -> float:
    """The least σ, within 0.1 %, whose `steps` after `prior` stay at or below the target.

    Raises ValueError where `prior` alone leaves nothing to spend.
    """

    def spent(sigma: float) -> float:
        return epsilon([*prior, Mechanism(sigma, sample_rate, steps)], delta)

    if epsilon(prior, delta) >= target_epsilon:
        raise ValueError("nothing is left to spend")
    low, high = 0.3, 1.0
    while spent(high) > target_epsilon:
        low, high = high, 2 * high
        if high > LARGEST_NOISE:
            raise ValueError("too little is left to spend: no noise is large enough")
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= target_epsilon else (middle, high)
    return high


def _epsilon(mechanisms: Sequence[Mechanism], delta: float) -> tuple[float, str]:
    if not mechanisms:
        return 0.0, "prv"
    history = [(m.noise_multiplier, m.sample_rate, m.steps) for m in mechanisms]
    rough = _run(RDPAccountant(), history, delta)
    error = max(RELATIVE_ERROR * rough, LEAST_ERROR)
    try:
        return _run(PRVAccountant(), history, delta, eps_error=error), "prv"
    except (RuntimeError, ValueError):
        # Its grid does not fit some mechanisms (very little noise); RDP is looser, never lower.
        return rough, "rdp"


def _run(
    accountant: IAccountant, history: list[tuple[float, float, int]], delta: float, **how: float
) -> float:
    accountant.history = history
    with warnings.catch_warnings():
        # log(0) where the rate is 1, which its formulas then handle; RDP's orders at their ends
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, **how))
