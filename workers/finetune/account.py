"""From mechanisms to ε: PRV by Opacus, checked by Google's dp-accounting.

PRV: Gopi, Lee, Wutschitz 2021, arXiv 2106.02848. The check composes privacy loss
distributions (Doroshenko et al. 2022, arXiv 2207.04380): another method, another code base.
Both are for adding or removing one unit, and for Poisson sampling.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import dp_accounting
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.accountant import IAccountant

from retrieval.budget import Mechanism
from retrieval.errors import AccountingDisagrees

AGREEMENT = 0.01
RELATIVE_ERROR = 0.001  # of PRV's interval: well below AGREEMENT
CALIBRATIONS = 8
PRECISION = 2e-3  # calibrated noise spends at least 1 - PRECISION of its target
LEAST_ERROR = 1e-4  # below it PRV's grid no longer fits into memory
LEAST_NOISE, LARGEST_NOISE = 0.3, 1000.0
LEAST_SLOPE = 0.1  # of -log ε by log σ, so that a flat stretch makes no huge step
COARSE = 0.02
ORDERS = [*range(2, 64), 128, 256, 512]
LOSS_INTERVAL = 1e-4  # of loss distributions, for ε up to 1; wider in proportion above


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
    """ε by dp-accounting: by loss distributions, or by RDP where the first one was RDP.

    Like for like: the looser method would differ by more than 1 % from the tighter one. Either
    way the code, and for RDP the orders, are other people's than those of the first number.
    """
    if not mechanisms:
        return 0.0
    interval = LOSS_INTERVAL * max(1.0, _run(RDPAccountant(), mechanisms, delta))
    second = (
        dp_accounting.rdp.RdpAccountant()
        if method == "rdp"
        else dp_accounting.pld.PLDAccountant(value_discretization_interval=interval)
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
    """A σ whose `steps` after `prior` spend the target but for 0.2 % at most, and never more.

    RDP, which is cheap and too careful, gives the first σ; PRV, which is neither, says in a few
    secant steps how much less will do. Raises ValueError where `prior` leaves nothing to spend.
    """
    if epsilon(prior, delta) >= target_epsilon:
        raise ValueError("nothing is left to spend")

    def after_prior(sigma: float) -> list[Mechanism]:
        return [*prior, Mechanism(sigma, sample_rate, steps)]

    sigma = _noise_by_rdp(target_epsilon, delta, after_prior)
    spent, slope, best = epsilon(after_prior(sigma), delta), 1.0, sigma
    for _ in range(CALIBRATIONS):
        if (1 - PRECISION) * target_epsilon <= spent <= target_epsilon:
            break
        excess = math.log(spent / ((1 - PRECISION / 2) * target_epsilon))
        following = sigma * math.exp(excess / slope)
        then = epsilon(after_prior(following), delta)
        slope = max(LEAST_SLOPE, math.log(spent / then) / math.log(following / sigma))
        sigma, spent = following, then
        if spent <= target_epsilon:
            best = min(best, sigma)
    return best


def _noise_by_rdp(
    target: float, delta: float, after_prior: Callable[[float], list[Mechanism]]
) -> float:
    """A σ with which even RDP of whole orders stays at or below the target."""
    low, high = math.log(LEAST_NOISE), math.log(LARGEST_NOISE)

    def fits(logarithm: float) -> bool:
        spent = _run(RDPAccountant(), after_prior(math.exp(logarithm)), delta, alphas=ORDERS)
        return spent <= target

    if not fits(high):
        raise ValueError("too little is left to spend: no noise is large enough")
    while high - low > COARSE:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return math.exp(high)


def _epsilon(mechanisms: Sequence[Mechanism], delta: float) -> tuple[float, str]:
    if not mechanisms:
        return 0.0, "prv"
    rough = _run(RDPAccountant(), mechanisms, delta)
    error = max(RELATIVE_ERROR * rough, LEAST_ERROR)
    try:
        found = _run(PRVAccountant(), mechanisms, delta, eps_error=error)
    except (RuntimeError, ValueError):
        found = math.inf
    # PRV's grid does not fit some mechanisms (very little noise); RDP is looser, never lower.
    return (found, "prv") if math.isfinite(found) else (rough, "rdp")


def _run(
    accountant: IAccountant, mechanisms: Sequence[Mechanism], delta: float, **how: Any
) -> float:
    accountant.history = [(m.noise_multiplier, m.sample_rate, m.steps) for m in mechanisms]
    with warnings.catch_warnings():
        # log(0) where the rate is 1, which its formulas then handle; RDP's orders at their ends
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, **how))
