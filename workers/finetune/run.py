"""One fine-tuning from collection to result: plan, train, attack, account."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.budget import Mechanism
from retrieval.errors import RunVoid
from workers.finetune import attack, checkpoint
from workers.finetune.account import account
from workers.finetune.data import Floats, Private, Public, collect
from workers.finetune.features import Projection, Space
from workers.finetune.heads import Rows, rows_of
from workers.finetune.objective import Clipping, Objective
from workers.finetune.train import Recipe, State, begin, correction, expected_parts, train
from workers.finetune.verify import SAMPLER

STEPS_PER_CHECKPOINT = 1  # a step takes about as long as sealing its outcome
TWIN_NOISE = 1e-6  # the twin is the same run without protection; its result is thrown away


@dataclass(frozen=True)
class HeldOut:
    """Queries nobody trained on: caption j belongs to photograph `owner[j]`."""

    images: Floats  # (M, d)
    captions: Floats  # (Q, t)
    owner: NDArray[np.int64]  # (Q,)
    pairs: Private  # pairs that could have been trained on, for the membership attack


@dataclass(frozen=True)
class Plan:
    """All that decides a run, apart from the data. `prior` was spent on the same units before:
    earlier runs, and every run of a search for this recipe."""

    objective: Objective
    mechanism: Mechanism
    recipe: Recipe
    delta: float
    canaries: int = 500
    prior: Sequence[Mechanism] = ()


@dataclass(frozen=True)
class Result:
    """What the certificate says, and the encoder's trained part."""

    projection: Projection
    data_digest: str
    unit: str
    units: int
    objective: str
    sampler: str
    sample_rate: float
    noise_multiplier: float
    clipping: Clipping
    steps: int
    epsilon: float
    delta: float
    accountant: str
    accountant_version: str
    cross_check_epsilon: float
    recall_at_10_before: float
    recall_at_10_after: float
    audit: attack.Audit
    audit_of_twin: attack.Audit  # what as many canaries prove where nothing protects them
    membership: attack.Membership
    membership_of_twin: attack.Membership
    code_version: str

    @property
    def mechanism(self) -> Mechanism:
        """What to settle in the ledger."""
        return Mechanism(self.noise_multiplier, self.sample_rate, self.steps)


def finetune(
    private: Private,
    public: Public,
    space: Space,
    held_out: HeldOut,
    plan: Plan,
    *,
    run: UUID,
    folder: Path,
    claim: Callable[[int], object],
    claimed: int | None = None,
) -> Result:
    """Train on `private`, attack the outcome, and say what it cost.

    folder: where sealed checkpoints go. claim: told how many of the steps may have touched the
    data, before they do; it keeps that where no copy of a checkpoint can take it back. With
    `claimed`, the number it was told last, an interrupted run goes on. Raises RunVoid where the
    state is missing, or the attack disproves ε; AccountingDisagrees where two accountants differ.
    δ must be below one over the number of units.
    """
    if plan.delta * private.units >= 1:
        raise ValueError("delta must be below one over the number of units")
    accounted = account([*plan.prior, plan.mechanism], plan.delta)
    own = rows_of(private, space)
    public_rows = rows_of(collect(public.images, public.texts, None), space)
    state, canaries = _train(
        own,
        private,
        space,
        plan,
        like=public_rows,
        run=run,
        folder=folder,
        claim=claim,
        claimed=claimed,
    )
    seen = _audit(state, canaries, plan)
    attack.reject_if_disproved(seen, accounted.epsilon)
    learnt = correction(plan.objective, state, public_rows, plan.recipe, private.units)
    outside = rows_of(held_out.pairs, space)
    projection = space.projection(learnt)
    bare = _twin(own, canaries, plan)
    twin = correction(plan.objective, bare, public_rows, plan.recipe, private.units)
    checkpoint.remove(folder, run)
    return Result(
        projection=projection,
        data_digest=private.digest,
        unit=private.unit,
        units=private.units,
        objective=plan.objective.name,
        sampler=SAMPLER,
        sample_rate=plan.mechanism.sample_rate,
        noise_multiplier=plan.mechanism.noise_multiplier,
        clipping=plan.objective.clipping,
        steps=plan.mechanism.steps,
        epsilon=accounted.epsilon,
        delta=plan.delta,
        accountant=accounted.accountant,
        accountant_version=accounted.accountant_version,
        cross_check_epsilon=accounted.cross_check_epsilon,
        recall_at_10_before=recall(space.projection(torch.zeros_like(learnt)), held_out, 10),
        recall_at_10_after=recall(projection, held_out, 10),
        audit=seen,
        audit_of_twin=_audit(bare, canaries, plan),
        membership=_membership(learnt, own, outside),
        membership_of_twin=_membership(twin, own, outside),
        code_version=code_version(),
    )


def recall(projection: Projection, held_out: HeldOut, k: int) -> float:
    """Words to image: the share of captions whose photograph is among the first k."""
    scores = projection.texts(torch.from_numpy(held_out.captions)) @ (
        projection.images(torch.from_numpy(held_out.images)).T
    )
    own = scores.gather(1, torch.from_numpy(held_out.owner)[:, None])
    return float(((scores > own).sum(1) < k).float().mean())


def code_version() -> str:
    """sha256 over this package's files: which code a certificate speaks of."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def _train(
    own: Rows,
    private: Private,
    space: Space,
    plan: Plan,
    *,
    like: Rows,
    run: UUID,
    folder: Path,
    claim: Callable[[int], object],
    claimed: int | None,
) -> tuple[State, attack.Canaries]:
    """The trained state and its canaries. Steps lost in an interruption stay spent."""
    total = plan.mechanism.steps
    name = _digest(private, space, plan)
    if claimed is None:
        canaries = attack.plant(plan.canaries, like, radius=space.radius)
        state, lost = begin(plan.objective), 0
    else:
        saved = checkpoint.load(folder, run, name)
        if saved.claimed > claimed:
            raise RunVoid(f"run {run} has a state with steps that it never claimed")
        # Not what the file says was claimed: an older copy of it would say less.
        state, canaries, lost = saved.state, saved.canaries, claimed - saved.state.done
    rows = own.joined(canaries.taking_part())
    parts = expected_parts(plan.objective, own.units, plan.mechanism.sample_rate)
    while lost + state.done < total:
        claiming = min(total, lost + state.done + STEPS_PER_CHECKPOINT)
        claim(claiming)
        checkpoint.save(folder, run, checkpoint.Checkpoint(state, canaries, claiming, name))
        chunk = replace(plan.mechanism, steps=claiming - lost)
        state = train(plan.objective, rows, chunk, plan.recipe, expected_parts=parts, state=state)
    if state.done == 0:
        raise RunVoid(f"run {run} spent its steps and kept none of them")
    checkpoint.save(folder, run, checkpoint.Checkpoint(state, canaries, total, name))
    return state, canaries


def _twin(own: Rows, canaries: attack.Canaries, plan: Plan) -> State:
    """The same steps without protection: what the attacks would find. Never kept."""
    bare = replace(plan.mechanism, noise_multiplier=TWIN_NOISE)
    parts = expected_parts(plan.objective, own.units, bare.sample_rate)
    rows = own.joined(canaries.taking_part())
    return train(plan.objective, rows, bare, plan.recipe, expected_parts=parts)


def _audit(state: State, canaries: attack.Canaries, plan: Plan) -> attack.Audit:
    score = attack.scores(plan.objective, state.trace, canaries.rows)
    return attack.audit(score, canaries.included, delta=plan.delta)


def _digest(private: Private, space: Space, plan: Plan) -> str:
    """Of all that a state is a state of; words of another file are another space."""
    objective = plan.objective
    public = hashlib.sha256()
    for part in (space.whiten, space.base, space.image_mean, space.text_mean, space.anchors):
        public.update(part.numpy().tobytes())
    numbers = {
        part.name: getattr(objective, part.name)
        for part in fields(objective)  # type: ignore[arg-type]  # every objective is a dataclass
        if isinstance(getattr(objective, part.name), (int, float, str, type(None)))
    }
    said = (numbers, objective.size, space.radius, public.hexdigest())
    rest = (plan.mechanism, plan.recipe, plan.delta, plan.canaries, tuple(plan.prior))
    return hashlib.sha256(f"{private.digest} {said} {rest}".encode()).hexdigest()


def _membership(learnt: torch.Tensor, inside: Rows, outside: Rows) -> attack.Membership:
    return attack.membership(attack.fit_gain(learnt, inside), attack.fit_gain(learnt, outside))
