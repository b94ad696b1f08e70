"""ε from mechanisms, by two accountants."""

import json
import math
from dataclasses import asdict

import psycopg
import pytest

from retrieval.budget import Mechanism
from retrieval.errors import AccountingDisagrees
from workers.finetune import account


def test_the_two_accountants_agree_within_one_percent() -> None:
    for mechanisms in (
        [Mechanism(3.73, 1.0, 1)],
        [Mechanism(4.0, 0.25, 60), Mechanism(6.0, 1.0, 1)],
    ):
        found = account.account(mechanisms, 1e-5)
        assert found.accountant == "prv"
        assert found.cross_check_epsilon == pytest.approx(found.epsilon, rel=0.01)


def test_the_database_believes_the_accountant_and_refuses_half_of_it(
    superuser: psycopg.Connection[tuple[object, ...]],
) -> None:
    spends_more = "SELECT cloister_spends_more(%s, %s, 1e-5)"
    for mechanisms in (
        [Mechanism(3.73, 1.0, 1)],
        [Mechanism(1.7, 1.0, 8), Mechanism(6.0, 1.0, 1)],
        [Mechanism(4.0, 0.25, 60)],
        [Mechanism(1.2, 0.02, 500), Mechanism(6.0, 1.0, 1)],
    ):
        told = json.dumps([asdict(one) for one in mechanisms])
        found = account.epsilon(mechanisms, 1e-5)
        everybody = all(one.sample_rate == 1 for one in mechanisms)
        too_little = found * (0.98 if everybody else 0.5)
        for claimed, refused in ((found, False), (too_little, True)):
            assert superuser.execute(spends_more, [told, claimed]).fetchone() == (refused,)
    for no_rate in ({"sample_rate": 2}, {"sample_rate": None}, {}):
        told = json.dumps([{"noise_multiplier": 9.0, "steps": 1, **no_rate}])
        assert superuser.execute(spends_more, [told, 50.0]).fetchone() == (True,)


def test_where_prv_has_no_answer_rdp_is_checked_against_rdp_of_other_code() -> None:
    found = account.account([Mechanism(0.2, 1.0, 100)], 1e-5)
    by_losses = account.cross_check([Mechanism(0.2, 1.0, 100)], 1e-5)

    assert found.accountant == "rdp"
    assert found.cross_check_epsilon == pytest.approx(found.epsilon, rel=0.01)
    assert found.epsilon >= 0.99 * by_losses  # looser, never lower


def test_one_plain_gaussian_costs_what_the_closed_form_says() -> None:
    """Balle, Wang 2018, theorem 8."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    sigma, epsilon = 3.0, account.epsilon([Mechanism(3.0, 1.0, 1)], 1e-5)
    a, b = 1 / (2 * sigma), epsilon * sigma

    assert phi(a - b) - math.exp(epsilon) * phi(-a - b) == pytest.approx(1e-5, rel=0.05)


def test_an_accountant_that_says_something_else_stops_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(account, "cross_check", lambda *_, **__: 1.5)
    with pytest.raises(AccountingDisagrees):
        account.account([Mechanism(3.73, 1.0, 1)], 1e-5)


def test_calibrated_noise_stays_at_or_below_the_target_after_what_was_spent() -> None:
    prior = [Mechanism(6.0, 1.0, 1)]
    sigma = account.noise_for(2.0, 1e-5, 1.0, 4, prior)

    assert 1.98 < account.epsilon([*prior, Mechanism(sigma, 1.0, 4)], 1e-5) <= 2.0
    with pytest.raises(ValueError, match="nothing is left"):
        account.noise_for(0.1, 1e-5, 1.0, 4, prior)


def test_every_run_of_a_search_is_charged() -> None:
    one = Mechanism(6.0, 1.0, 1)
    assert account.epsilon([one, one, one], 1e-5) > 1.5 * account.epsilon([one], 1e-5)
    assert account.epsilon([], 1e-5) == 0
