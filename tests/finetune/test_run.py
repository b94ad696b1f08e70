"""A run from start to result, interrupted, and tampered with. The key file is a real one."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import numpy as np
import pytest
import torch
from django.conf import settings

from retrieval import keys
from retrieval.budget import Mechanism
from retrieval.errors import RunVoid
from tests.finetune import toy
from workers.finetune import attack, checkpoint, run, sampler, train
from workers.finetune.account import epsilon
from workers.finetune.data import Public, collect
from workers.finetune.heads import Rows, rows_of
from workers.finetune.objective import Clipping, Objective, PerExample

STEPS = Mechanism(noise_multiplier=12.0, sample_rate=1.0, steps=20)  # cheap to account
DELTA = 1e-4


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CLOISTER_KEY_FILE", str(tmp_path / "key"))
    keys.create_key_file(tmp_path / "key")


def plan() -> run.Plan:
    objective = PerExample(toy.RANK, toy.TEXT, toy.CLIP, toy.space().anchors, 0.1)
    return run.Plan(objective, STEPS, train.Recipe(0.05), DELTA, canaries=50)


CLAIMED: dict[UUID, int] = {}  # what the ledger keeps


def finetune(folder: Path, number: UUID, *, resume: bool = False) -> run.Result:
    images, texts = toy.pairs(60, 3)
    held_out = run.HeldOut(images, texts, np.arange(60), collect(images, texts, None))
    return run.finetune(
        toy.private(120),
        Public(*toy.pairs(200, 1)),
        toy.space(),
        held_out,
        plan(),
        run=number,
        folder=folder,
        claim=lambda steps: CLAIMED.__setitem__(number, steps),
        claimed=CLAIMED[number] if resume else None,
    )


def interrupted(folder: Path, number: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die in the fifteenth step."""
    honest, taken = train.release, iter(range(100))

    def dying(*arguments: object) -> torch.Tensor:
        if next(taken) == 14:
            raise KeyboardInterrupt
        return honest(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train, "release", dying)
        with pytest.raises(KeyboardInterrupt):
            finetune(folder, number)


@pytest.mark.usefixtures("key_file")
def test_a_result_carries_what_the_certificate_needs(tmp_path: Path) -> None:
    found = finetune(tmp_path, uuid4())

    assert found.epsilon == pytest.approx(epsilon([STEPS], DELTA))
    assert found.cross_check_epsilon == pytest.approx(found.epsilon, rel=0.01)
    assert (found.unit, found.units, found.sampler) == ("image", 120, "poisson")
    assert found.mechanism == STEPS
    assert found.data_digest == toy.private(120).digest
    assert found.audit.epsilon_at_least <= found.epsilon
    assert found.audit_of_twin.epsilon_at_least > 0.3  # the canaries speak where nothing protects
    assert 0 <= found.membership.auc <= 1
    assert not list(tmp_path.glob("*.training"))


@pytest.mark.usefixtures("key_file")
def test_canaries_are_made_to_the_measure_of_public_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted: list[attack.Canaries] = []
    honest = attack.plant

    def watched(*arguments: Any, **options: Any) -> attack.Canaries:
        planted.append(honest(*arguments, **options))
        return planted[-1]

    monkeypatch.setattr(attack, "plant", watched)
    finetune(tmp_path, uuid4())

    public = rows_of(collect(*toy.pairs(200, 1), None), toy.space())
    lengths = planted[0].rows.start.norm(dim=1)
    assert torch.allclose(lengths, public.start.norm(dim=1).median(), rtol=1e-5)


def count_releases(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    honest, taken = train.release, []

    def counted(*arguments: Any) -> torch.Tensor:
        taken.append(1)
        return honest(*arguments)

    monkeypatch.setattr(train, "release", counted)
    monkeypatch.setattr(run, "_twin", lambda own, canaries, plan: train.begin(plan.objective))
    return taken


@pytest.mark.usefixtures("key_file")
def test_an_interrupted_run_goes_on_in_the_middle_and_the_lost_step_stays_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = uuid4()
    interrupted(tmp_path, number, monkeypatch)
    released = count_releases(monkeypatch)

    found = finetune(tmp_path, number, resume=True)

    assert len(released) == 5  # fourteen were kept, the fifteenth was claimed and lost
    assert found.mechanism == STEPS
    assert CLAIMED[number] == STEPS.steps
    assert found.epsilon == pytest.approx(epsilon([STEPS], DELTA))


@pytest.mark.usefixtures("key_file")
def test_an_older_state_put_back_takes_no_step_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, copies = uuid4(), []
    honest = checkpoint.save

    def copied(folder: Path, *arguments: Any) -> None:
        honest(folder, *arguments)
        copies.append(next(folder.glob("*.training")).read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", copied)
        interrupted(tmp_path, number, monkeypatch)
    next(tmp_path.glob("*.training")).write_bytes(copies[3])  # three steps done
    released = count_releases(monkeypatch)

    finetune(tmp_path, number, resume=True)

    assert len(released) == STEPS.steps - 15


@pytest.mark.usefixtures("key_file")
def test_a_state_with_steps_that_were_never_claimed_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = uuid4()
    interrupted(tmp_path, number, monkeypatch)
    CLAIMED[number] = 3

    with pytest.raises(RunVoid, match="never claimed"):
        finetune(tmp_path, number, resume=True)


@pytest.mark.usefixtures("key_file")
def test_a_run_with_an_altered_or_missing_state_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = uuid4()
    interrupted(tmp_path, number, monkeypatch)
    (path,) = tmp_path.glob("*.training")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunVoid, match="no state that proves"):
        finetune(tmp_path, number, resume=True)
    path.unlink()
    with pytest.raises(RunVoid, match="no state that proves"):
        finetune(tmp_path, number, resume=True)


@pytest.mark.usefixtures("key_file")
def test_a_checkpoint_does_not_open_for_another_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = uuid4()
    interrupted(tmp_path, number, monkeypatch)
    cheaper = Mechanism(noise_multiplier=6.0, sample_rate=1.0, steps=20)
    monkeypatch.setattr("tests.finetune.test_run.STEPS", cheaper)
    with pytest.raises(RunVoid):
        finetune(tmp_path, number, resume=True)


def test_noise_is_added_where_nobody_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "poisson", lambda units, rate: np.array([], np.int64))
    noisy = train.release(plan().objective, torch.zeros(plan().objective.size), toy.rows(5), STEPS)
    assert float(noisy.std()) == pytest.approx(STEPS.noise_multiplier * toy.CLIP, rel=0.1)


def test_a_step_draws_its_units_by_poisson_sampling() -> None:
    """Each step's number of drawn units differs; a shuffled batch's would not."""

    class Counting:
        size, clipping = 1, Clipping(1e-9)

        def clipped_sum(self, weights: torch.Tensor, rows: Rows, drawn: object) -> torch.Tensor:
            return torch.tensor([float(len(np.atleast_1d(np.asarray(drawn))))])

    rows, counting = toy.rows(200), cast(Objective, Counting())
    half = Mechanism(1.0, 0.5, 1)
    drawn = [round(float(train.release(counting, torch.zeros(1), rows, half))) for _ in range(200)]

    assert np.mean(drawn) == pytest.approx(100, abs=3)
    assert 30 < np.var(drawn) < 80  # a coin each: 50; a batch of fixed size: 0


@pytest.mark.usefixtures("key_file")
def test_what_was_spent_before_is_in_the_epsilon_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = plan()
    monkeypatch.setattr("tests.finetune.test_run.plan", lambda: replace(alone, prior=[STEPS]))
    found = finetune(tmp_path, uuid4())

    assert found.epsilon == pytest.approx(epsilon([STEPS, STEPS], DELTA))


def test_delta_must_be_below_one_over_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.finetune.test_run.DELTA", 0.01)
    with pytest.raises(ValueError, match="below one over"):
        finetune(Path("unused"), uuid4())


@pytest.mark.usefixtures("key_file")
def test_a_run_whose_canaries_disprove_its_epsilon_gives_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = attack.Audit(50, 10, 10, 40.0, 0.95)
    monkeypatch.setattr(attack, "audit", lambda *_, **__: caught)
    with pytest.raises(RunVoid, match="canaries prove"):
        finetune(tmp_path, uuid4())
