"""From a collection to a certified encoder: reserve, train, settle, register, certify.

Between `reserve` and the certificate nothing is free: what fails is charged in full, and only an
interruption leaves a state to go on from.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from django.conf import settings

from retrieval import access, budget, certificates, index, keys
from retrieval.certificates import AttackResult, Statement
from retrieval.errors import BudgetExceeded, RunVoid
from retrieval.models import (
    Certificate,
    Charge,
    Collection,
    EncoderVersion,
    Reservation,
    Unit,
    User,
)
from workers.encode import private_head
from workers.encode.encoder import Encoder
from workers.finetune import account
from workers.finetune.attack import Audit, Membership
from workers.finetune.collection import Gathered
from workers.finetune.data import Floats, Public
from workers.finetune.features import Space
from workers.finetune.objective import Clipping
from workers.finetune.run import Plan, Result, finetune
from workers.finetune.verify import PER_GROUP, PER_UNIT, PER_UNIT_AND_GROUP

CERTIFICATE_FILE = "certificate.json"


@dataclass(frozen=True)
class Trained:
    encoder: EncoderVersion
    certificate: Certificate
    file: Path  # the certificate's document, beside the encoder
    result: Result
    resumed: bool


def train(
    gathered: Gathered,
    plan: Plan,
    space: Space,
    *,
    public_texts: Floats,
    collection: Collection,
    base: EncoderVersion,
    encoder: Encoder,
    name: str,
    actor: User,
) -> Trained:
    """Train, and register the encoder with its certificate; it is not live after this.

    Goes on with an interrupted training of the same plan and data. Call it inside `alone_on`.
    Raises BudgetExceeded before any gradient, RunVoid where the training or its attack failed:
    it is then charged in full. An interruption by ^C leaves it open, to be resumed once.
    """
    account.account([plan.mechanism], plan.delta)  # two accountants agree, or nothing begins
    reservation, claimed = _reserved(gathered, plan, collection, actor)
    try:
        result = finetune(
            gathered.private,
            Public(public_texts, public_texts),  # words are their own pictures: no public residual
            space,
            gathered.held_out,
            plan,
            run=reservation.pk,
            folder=training_folder(),
            claim=partial(budget.claim, reservation),
            claimed=claimed,
        )
    except Exception as error:
        budget.void(reservation, actor=actor, compose=account.epsilon)
        _forget(reservation)
        if isinstance(error, RunVoid):
            raise
        raise RunVoid(f"reservation {reservation.pk} failed and is charged in full") from error
    settled = budget.settle(reservation, [result.mechanism], actor=actor, compose=account.epsilon)
    folder = models_folder() / settled.pk.hex
    config = private_head.write(
        folder, result.projection.image_weight, base=encoder, base_source=base.source
    )
    registered = index.register_encoder(
        name=name,
        digest=private_head.digest_of(config),
        dimensions=encoder.dimensions,
        licence=encoder.licence,
        source=str(folder),
        base=base,
        epsilon=settled.epsilon,
        delta=settled.delta,
    )
    certificate = certificates.issue(
        _statement(result, base, registered),
        reservation=settled,
        encoder=registered,
        actor=actor,
    )
    file = folder / CERTIFICATE_FILE
    file.write_text(certificate.document + "\n", encoding="utf-8")
    return Trained(registered, certificate, file, result, claimed is not None)


def training_folder() -> Path:
    """Sealed checkpoints; beside the stored images, where every worker reaches them."""
    return Path(settings.CLOISTER_STORE) / "training"


def models_folder() -> Path:
    return Path(settings.CLOISTER_STORE) / "models"


@contextmanager
def alone_on(collection: Collection) -> Iterator[None]:
    """Keep others from training on the collection meanwhile: an open reservation is then one
    that was interrupted, and nobody else's. Raises BudgetExceeded where another trains."""
    training_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    path = training_folder() / f"collection-{collection.pk}.lock"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BudgetExceeded(f"collection {collection.pk} is being trained on") from error
        yield


def _reserved(
    gathered: Gathered, plan: Plan, collection: Collection, actor: User
) -> tuple[Reservation, int | None]:
    """The reservation to train under; how many steps it claimed, where it was interrupted."""
    private = gathered.private
    with access.processing(collection.pk):
        interrupted = list(Reservation.objects.filter(collection=collection, state=Charge.OPEN))
    for one in interrupted:
        same = budget.charged(one) == [plan.mechanism] and one.delta == plan.delta
        if same and one.resumed_at is None and _checkpoint(one).exists():
            budget.resume(one, actor=actor)
            return one, one.steps_claimed
        # Nobody can go on with it: its state is gone, or it was resumed and interrupted again.
        budget.void(one, actor=actor, compose=account.epsilon)
        _forget(one)
    reservation = budget.reserve(
        collection,
        plan=[plan.mechanism],
        delta=plan.delta,
        unit=Unit(private.unit.value),
        units=private.units,
        actor=actor,
        compose=account.epsilon,
    )
    return reservation, None


def _checkpoint(reservation: Reservation) -> Path:
    return training_folder() / f"{reservation.pk.hex}.training"


def _forget(reservation: Reservation) -> None:
    _checkpoint(reservation).unlink(missing_ok=True)


def _statement(result: Result, base: EncoderVersion, trained: EncoderVersion) -> Statement:
    return Statement(
        # Keyed: a plain hash would tell whoever holds the certificate that a guess of the whole
        # data, but for one unit, is right.
        data_digest=keys.keyed_hash(result.data_digest, use="digests of training data"),
        sampler=result.sampler,
        clipping=_clipping(result.clipping),
        clipping_norm=result.clipping.unit,
        group_clipping_norm=result.clipping.group,
        sensitivity=result.clipping.sensitivity,
        noise_deviation=result.noise_multiplier * result.clipping.sensitivity,
        accountant=result.accountant,
        accountant_version=result.accountant_version,
        cross_check="dp-accounting",
        cross_check_version=version("dp-accounting"),
        cross_check_epsilon=result.cross_check_epsilon,
        objective=result.objective,
        base_encoder=base.name,
        base_digest=base.digest,
        weights_digest=trained.digest,
        utility_before={"recall@10": result.recall_at_10_before},
        utility_after={"recall@10": result.recall_at_10_after},
        attack=_attack(result.audit, result.membership),
        twin_attack=_attack(result.audit_of_twin, result.membership_of_twin),
        code_version=result.code_version,
    )


def _clipping(clipping: Clipping) -> str:
    if not clipping.group:
        return PER_UNIT
    return PER_UNIT_AND_GROUP if clipping.unit else PER_GROUP


def _attack(audit: Audit, found: Membership) -> AttackResult:
    return AttackResult(audit.epsilon_at_least, found.auc, found.true_positives_at_1_percent)
