"""Certificates of private training: what an auditor can check without trusting the appliance.

What the ledger knows (unit, mechanisms, ε, δ) is taken from there and not from the trainer's
word; the rest is the trainer's statement. An auditor needs the document, the appliance's public
key, and an accountant of his own to re-compute ε from the mechanisms.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.utils import timezone

from retrieval import access, audit, budget, keys
from retrieval.errors import CertificateRefused, ModelRefused
from retrieval.models import Certificate, Charge, EncoderVersion, Kind, Reservation, User

SIGNED_AS: Final = b"cloister certificate 1\n"
"""Before what is signed, so that no signature of the appliance passes for another kind's."""

CROSS_CHECK_TOLERANCE: Final = 0.01

PROMISE: Final = (
    "Protects those whose images trained the model; says nothing of the images that are indexed"
    " with it. What is not covered by epsilon is for the privacy officer's eyes."
)

NOT_COVERED: Final = (
    "utility_before",
    "utility_after",
    "attack.membership_auc",
    "attack.tpr_at_1_percent_fpr",
    "twin_attack",
)
"""Measured without noise on the private units, or on those held out: see docs/finetuning.md."""


@dataclass(frozen=True)
class AttackResult:
    """What an attacker got out of a model; `epsilon_lower_bound` holds at 95 % confidence."""

    epsilon_lower_bound: float
    membership_auc: float
    tpr_at_1_percent_fpr: float


@dataclass(frozen=True)
class Statement:
    """What the trainer says of its run. Digests are SHA-256, hex; utility is metric → value.

    data_digest: keyed with the appliance's key file, as it is of private data. clipping: what is
    clipped, and the norms of a unit's own part and of its group's. sensitivity: how far one unit
    moves a step's sum. noise_deviation: of the noise that is added to it.
    """

    data_digest: str
    sampler: str
    clipping: str
    clipping_norm: float
    group_clipping_norm: float
    sensitivity: float
    noise_deviation: float
    accountant: str
    accountant_version: str
    cross_check: str
    cross_check_version: str
    cross_check_epsilon: float
    objective: str
    base_encoder: str
    base_digest: str
    weights_digest: str
    utility_before: Mapping[str, float]
    utility_after: Mapping[str, float]
    attack: AttackResult
    twin_attack: AttackResult
    code_version: str


@dataclass(frozen=True)
class Verified:
    """`problem` is empty where the document is as the appliance signed it."""

    fields: Mapping[str, Any]
    problem: str = ""

    @property
    def holds(self) -> bool:
        return not self.problem


def issue(
    statement: Statement,
    *,
    reservation: Reservation,
    encoder: EncoderVersion,
    actor: User | None,
) -> Certificate:
    """Sign what was trained, as a worker's role, on the log in the same transaction.

    `encoder`: the new weights' row, registered and not live yet. Raises CertificateRefused, which
    is on the log, where the training is not settled, where its ε is not confirmed by the
    cross-check, where an attack proves more than ε, or where the encoder is not the one stated.
    """
    try:
        with access.processing(reservation.collection_id):
            settled = Reservation.objects.get(pk=reservation.pk)
            _require_consistent(statement, settled, encoder)
            certificate = Certificate(
                collection_id=settled.collection_id,
                reservation=settled,
                encoder=encoder,
                issued_at=timezone.now(),
            )
            fields = _fields(certificate, statement)
            certificate.document = _signed(fields)
            certificate.event = audit.record_in_transaction(
                Kind.MODEL_CERTIFIED,
                actor=actor,
                certificate=certificate.pk,
                collection=settled.collection_id,
                encoder=encoder.pk,
                reservation=settled.pk,
                epsilon=settled.epsilon,
                delta=settled.delta,
                weights=statement.weights_digest,
                signature=json.loads(certificate.document)["signature"],
            )
            certificate.save(force_insert=True)
    except CertificateRefused as error:
        audit.record(
            Kind.MODEL_REFUSED,
            actor=actor,
            encoder=encoder.pk,
            reservation=reservation.pk,
            reason=str(error),
        )
        raise
    return certificate


def _require_consistent(
    statement: Statement, settled: Reservation, encoder: EncoderVersion
) -> None:
    if settled.state != Charge.SETTLED or not settled.spent:
        raise CertificateRefused(f"reservation {settled.pk} did not prove what it spent")
    if (encoder.epsilon, encoder.delta) != (settled.epsilon, settled.delta):
        raise CertificateRefused(f"encoder {encoder.pk} was registered with another ε or δ")
    if encoder.digest != statement.weights_digest:
        raise CertificateRefused(f"encoder {encoder.pk} has other weights")
    if encoder.base is None or encoder.base.digest != statement.base_digest:
        raise CertificateRefused(f"encoder {encoder.pk} was trained from another one")
    if not math.isclose(
        settled.epsilon, statement.cross_check_epsilon, rel_tol=CROSS_CHECK_TOLERANCE
    ):
        raise CertificateRefused("the second accountant does not confirm ε within 1 %")
    if not statement.attack.epsilon_lower_bound <= settled.epsilon:
        raise CertificateRefused("an attack proves a larger ε than the accountant's")


def _fields(certificate: Certificate, statement: Statement) -> dict[str, Any]:
    row = certificate.reservation
    mechanisms = budget.charged(row)
    # One kind of mechanism is told in words an auditor looks for; several only as their list.
    single = mechanisms[0] if len(mechanisms) == 1 else None
    return asdict(statement) | {
        "certificate": str(certificate.pk),
        "issued_at": certificate.issued_at.astimezone(UTC).isoformat(),
        "collection": row.collection_id,
        "subject_group": row.subject_group_id,
        "encoder": certificate.encoder.name,
        "unit": row.unit,
        "units": row.units,
        "mechanisms": [asdict(one) for one in mechanisms],
        "noise_multiplier": single and single.noise_multiplier,
        "sample_rate": single and single.sample_rate,
        "steps": sum(one.steps for one in mechanisms),
        "epsilon": row.epsilon,
        "delta": row.delta,
        "collection_epsilon": row.closed_total_epsilon,
        "collection_mechanisms": [
            [asdict(one) for one in mechanisms] for mechanisms in budget.charged_with(row)
        ],
        "collection_delta": row.budget_delta,
        "reservation": str(row.pk),
        "audit_reserved": row.reserved_event,
        "audit_settled": row.closed_event,
        "promise": PROMISE,
        "not_covered_by_epsilon": list(NOT_COVERED),
    }


def _canonical(fields: Mapping[str, Any]) -> bytes:
    """The one way to write the fields down: sorted, without spaces, no NaN (RFC 8785 in spirit)."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return SIGNED_AS + text.encode()


def _signed(fields: Mapping[str, Any]) -> str:
    signature = keys.signing_key().sign(_canonical(fields)).hex()
    document = {"fields": fields, "signature": signature, "public_key": keys.public_key_pem()}
    return json.dumps(document, sort_keys=True, indent=1, allow_nan=False)


def verify(document: str, public_key: Ed25519PublicKey) -> Verified:
    """Whether the appliance whose key it is signed these very fields.

    The key inside the document is for the reader's information and is not believed.
    """
    try:
        parsed = json.loads(document, object_pairs_hook=_without_doubles)
        fields, signature = parsed["fields"], bytes.fromhex(parsed["signature"])
        if set(parsed) != {"fields", "signature", "public_key"} or not isinstance(fields, dict):
            return Verified({}, "it is not a certificate")
        public_key.verify(signature, _canonical(fields))
    except InvalidSignature:
        return Verified(fields, "it is not as the appliance signed it")
    except (ValueError, TypeError, KeyError, RecursionError):
        return Verified({}, "it is not a certificate")
    return Verified(fields)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that stands twice would be read in one way here and in another elsewhere."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def require_certified(encoder: EncoderVersion) -> None:
    """Raise ModelRefused where `encoder` learned from images and no certificate of it verifies.

    As a worker's role. The database's row must say what the signed document says.
    """
    if not encoder.learned_from_images:
        return
    for certificate in Certificate.objects.filter(encoder=encoder):
        verified = verify(certificate.document, keys.public_key())
        stated = [verified.fields.get(name) for name in ("weights_digest", "epsilon", "delta")]
        if verified.holds and stated == [encoder.digest, encoder.epsilon, encoder.delta]:
            return
    raise ModelRefused(f"encoder {encoder.pk} learned from images and has no valid certificate")
