import time

import numpy as np
import pytest
from django.core import mail
from django.test import Client

from retrieval import keys, probes, queue
from retrieval.errors import EncoderUnavailable, LimitReached
from retrieval.models import Collection, Kind, Purpose, ServiceAccount, User
from retrieval.tokens import let_in
from tests.api.conftest import account, ask
from tests.factories import make_image, make_token, make_user
from tests.web.conftest import Log, collection, encoder_answers, log

__all__ = ["account", "collection", "encoder_answers", "log"]

DIMENSIONS = 512


@pytest.fixture
def program(account: ServiceAccount, collection: Collection) -> User:
    return let_in(make_token(account, collection)[1])


def unit(*, seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIMENSIONS).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


def beside(vector: np.ndarray, cosine: float, *, seed: int) -> np.ndarray:
    """A unit vector at that cosine from `vector`."""
    other = unit(seed=seed)
    other -= (other @ vector) * vector
    other /= np.linalg.norm(other)
    return np.asarray(cosine * vector + np.sqrt(1 - cosine**2) * other)


def watch(vector: np.ndarray, actor: User) -> None:
    probes.watch(vector, actor=actor, purpose=Purpose.TREATMENT)


def test_a_program_that_asks_nearly_the_same_again_and_again_is_stopped_and_reported(
    program: User, log: Log, settings: object, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CLOISTER_OFFICER_MAIL = "officer@example.org"  # type: ignore[attr-defined]
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"  # type: ignore[attr-defined]
    secret = unit(seed=0)
    for n in range(probes.MAX_NEAR):
        watch(beside(secret, 0.999, seed=n + 1), program)

    for n in range(3):
        with pytest.raises(LimitReached):
            watch(beside(secret, 0.999, seed=n + 100), program)

    assert [e["near"] for e in log(Kind.TOKEN_PROBES)] == [20, 21, 22]
    assert program.token is not None
    assert len(mail.outbox) == 1
    assert f"Token {program.token.pk}" in mail.outbox[0].body
    assert "asks the same again and again" in caplog.text


def test_different_queries_are_not_stopped(program: User) -> None:
    for n in range(3 * probes.MAX_NEAR):
        watch(beside(unit(seed=0), 0.7, seed=n + 1), program)


def test_what_was_asked_an_hour_ago_is_forgotten(
    program: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(probes.MAX_NEAR):
        watch(unit(seed=0), program)
    later = time.time() + probes.WINDOW_S + 1
    monkeypatch.setattr("retrieval.probes.time.time", lambda: later)

    watch(unit(seed=0), program)


def test_people_look_again(db: None) -> None:
    person = make_user()
    for _ in range(2 * probes.MAX_NEAR):
        watch(unit(seed=0), person)


def test_a_signature_tells_nothing_without_the_key_file(monkeypatch: pytest.MonkeyPatch) -> None:
    here = probes._signature(unit(seed=0))
    probes._planes.cache_clear()
    monkeypatch.setattr(keys, "keyed_hash", lambda *_, **__: "7")
    elsewhere = probes._signature(unit(seed=0))
    probes._planes.cache_clear()

    assert probes._differing(here, elsewhere) > 30


def test_what_cannot_be_watched_is_not_answered(
    program: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> list[bytes]:
        raise EncoderUnavailable("the broker does not answer")

    monkeypatch.setattr(queue, "remember", gone)
    with pytest.raises(EncoderUnavailable):
        watch(unit(seed=0), program)


def test_the_api_refuses_the_next_near_identical_query(
    account: ServiceAccount, collection: Collection, encoder_answers: None
) -> None:
    make_image(collection, [1.0, 0.0, 0.0])
    text = make_token(account, collection, per_minute=600)[1]
    client = Client(headers={"Authorization": f"Bearer {text}"})

    statuses = [ask(client).status_code for _ in range(probes.MAX_NEAR + 1)]

    assert statuses == [200] * probes.MAX_NEAR + [429]
