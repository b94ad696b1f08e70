import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrieval import budget, certificates, index, keys
from retrieval.certificates import AttackResult, Statement
from retrieval.errors import CertificateRefused, ModelRefused
from retrieval.models import Certificate, Collection, EncoderVersion, Kind, Reservation, Unit
from tests import database
from tests.factories import make_encoder
from tests.retrieval.test_budget import STEP, collection, compose, officer
from tests.web.conftest import Log, Superuser, log

__all__ = ["collection", "log", "officer"]

pytestmark = pytest.mark.usefixtures("db")

STATEMENT = Statement(
    data_digest="d" * 64,
    sampler="poisson",
    clipping="per unit",
    clipping_norm=1.0,
    group_clipping_norm=0.0,
    sensitivity=1.0,
    noise_deviation=10.0,
    accountant="prv",
    accountant_version="1",
    cross_check="dp-accounting",
    cross_check_version="2",
    cross_check_epsilon=0.0,
    objective="per-example",
    base_encoder="base",
    base_digest="0" * 64,
    weights_digest="f" * 64,
    utility_before={"recall@10": 0.5},
    utility_after={"recall@10": 0.6},
    attack=AttackResult(0.0, 0.5, 0.01),
    twin_attack=AttackResult(0.4, 0.7, 0.1),
    code_version="0.1.0",
)


def make_settled(collection: Collection) -> Reservation:
    """As the worker's role."""
    reservation = budget.reserve(
        collection,
        plan=[STEP],
        delta=1e-5,
        unit=Unit.IMAGE,
        units=100,
        actor=None,
        compose=compose,
    )
    return budget.settle(reservation, [STEP], actor=None, compose=compose)


def register(base: EncoderVersion, **fields: Any) -> EncoderVersion:
    return index.register_encoder(
        name="private", digest="f" * 64, dimensions=3, licence="none", base=base, **fields
    )


def issue(settled: Reservation, encoder: EncoderVersion, **changed: Any) -> Certificate:
    statement = replace(STATEMENT, **{"cross_check_epsilon": settled.epsilon} | changed)
    return certificates.issue(statement, reservation=settled, encoder=encoder, actor=None)


@pytest.fixture
def base(db: None) -> EncoderVersion:
    return make_encoder(name="base")


@pytest.fixture
def settled(base: EncoderVersion, collection: Collection) -> Iterator[Reservation]:
    """A training that proved what it spent; the rest of the test is a worker."""
    with database.role("worker"):
        yield make_settled(collection)


@pytest.fixture
def encoder(base: EncoderVersion, settled: Reservation) -> EncoderVersion:
    return register(base, epsilon=settled.epsilon, delta=settled.delta)


@pytest.fixture
def certificate(settled: Reservation, encoder: EncoderVersion) -> Certificate:
    return issue(settled, encoder)


def test_a_certificate_holds_with_the_appliances_key_and_no_other(
    certificate: Certificate,
) -> None:
    other = Ed25519PrivateKey.generate().public_key()

    assert certificates.verify(certificate.document, keys.public_key()).holds
    assert not certificates.verify(certificate.document, other).holds


def test_what_the_ledger_knows_is_not_the_trainers_word(
    certificate: Certificate, settled: Reservation
) -> None:
    fields = certificates.verify(certificate.document, keys.public_key()).fields

    assert fields["epsilon"] == settled.epsilon
    assert fields["mechanisms"] == settled.spent
    assert (fields["unit"], fields["units"], fields["steps"]) == ("image", 100, 1)
    assert fields["audit_settled"] == settled.closed_event


def test_any_altered_field_fails(certificate: Certificate) -> None:
    def altered(value: Any) -> Any:
        if isinstance(value, dict):
            return {**value, "more": 1}
        return 2.5 if isinstance(value, (int, float)) else f"{value}x"

    document = json.loads(certificate.document)
    for name, value in document["fields"].items():
        forged = {**document, "fields": {**document["fields"], name: altered(value)}}
        assert not certificates.verify(json.dumps(forged), keys.public_key()).holds, name
        del forged["fields"][name]
        assert not certificates.verify(json.dumps(forged), keys.public_key()).holds, name


@pytest.mark.parametrize(
    "document",
    ["", "[]", "null", "{}", '{"fields":1,"signature":"","public_key":""}', "[" * 100_000, "\x00"],
)
def test_what_is_no_certificate_is_said_so(document: str) -> None:
    assert certificates.verify(document, keys.public_key()).problem == "it is not a certificate"


def test_a_field_that_stands_twice_fails(certificate: Certificate) -> None:
    forged = certificate.document.replace('"fields": {', '"fields": {"epsilon": 0.01,', 1)

    assert not certificates.verify(forged, keys.public_key()).holds


def test_a_signature_for_something_else_is_none(certificate: Certificate) -> None:
    document = json.loads(certificate.document)
    text = json.dumps(document["fields"], sort_keys=True, separators=(",", ":"))
    document["signature"] = keys.signing_key().sign(text.encode()).hex()

    assert not certificates.verify(json.dumps(document), keys.public_key()).holds


def test_the_log_names_the_certificate_and_the_certificate_the_log(
    certificate: Certificate, log: Log
) -> None:
    (entry,) = log(Kind.MODEL_CERTIFIED)

    assert entry["certificate"] == str(certificate.pk)
    assert entry["signature"] == json.loads(certificate.document)["signature"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"cross_check_epsilon": 0.001}, "second accountant"),
        ({"cross_check_epsilon": float("nan")}, "second accountant"),
        ({"attack": AttackResult(50.0, 0.99, 0.9)}, "attack proves"),
        ({"attack": AttackResult(float("nan"), 0.5, 0.01)}, "attack proves"),
        ({"weights_digest": "0" * 64}, "other weights"),
        ({"base_digest": "1" * 64}, "another one"),
    ],
)
def test_a_claim_that_something_contradicts_is_not_signed(
    settled: Reservation, encoder: EncoderVersion, log: Log, changed: Any, reason: str
) -> None:
    with pytest.raises(CertificateRefused, match=reason):
        issue(settled, encoder, **changed)

    assert [e["encoder"] for e in log(Kind.MODEL_REFUSED)] == [encoder.pk]
    assert not Certificate.objects.exists()


@pytest.mark.parametrize("closing", ["open", "void", "nothing ran"])
def test_a_training_that_did_not_prove_what_it_spent_gets_none(
    encoder: EncoderVersion, collection: Collection, closing: str
) -> None:
    reservation = budget.reserve(
        collection,
        plan=[STEP],
        delta=1e-5,
        unit=Unit.IMAGE,
        units=100,
        actor=None,
        compose=compose,
    )
    if closing == "void":
        budget.void(reservation, actor=None, compose=compose)
    elif closing == "nothing ran":
        budget.settle(reservation, [], actor=None, compose=compose)

    with pytest.raises(CertificateRefused, match="did not prove"):
        issue(reservation, encoder)


# Going live


def test_a_private_encoder_goes_live_with_its_certificate_and_is_switched_back(
    certificate: Certificate, encoder: EncoderVersion, base: EncoderVersion
) -> None:
    index.switch(encoder)
    assert index.live_encoder() == encoder
    index.switch(base)
    assert index.live_encoder() == base


def test_a_private_encoder_without_a_certificate_does_not_go_live(
    encoder: EncoderVersion, base: EncoderVersion
) -> None:
    with pytest.raises(ModelRefused, match="certificate"):
        index.switch(encoder)
    assert index.live_encoder() == base


def test_an_encoder_trained_on_images_without_any_epsilon_does_not_go_live(
    base: EncoderVersion, settled: Reservation
) -> None:
    with pytest.raises(ModelRefused, match="certificate"):
        index.switch(register(base))


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE retrieval_certificate SET document = replace(document, 'poisson', 'shuffle')",
        "UPDATE retrieval_encoderversion SET epsilon = 0.001 WHERE name = 'private'",
        "UPDATE retrieval_encoderversion SET digest = repeat('a', 64) WHERE name = 'private'",
    ],
    ids=["certificate", "epsilon", "weights"],
)
def test_an_encoder_whose_certificate_says_something_else_does_not_go_live(
    certificate: Certificate, encoder: EncoderVersion, superuser: Superuser, forgery: str
) -> None:
    superuser.execute(forgery)

    with pytest.raises(ModelRefused, match="certificate"):
        index.switch(encoder)


def test_a_private_encoder_is_not_live_by_being_the_first(db: None) -> None:
    with database.role("worker"):
        first = index.register_encoder(
            name="first", digest="f" * 64, dimensions=3, licence="none", epsilon=1.0, delta=1e-5
        )

    assert not first.live
