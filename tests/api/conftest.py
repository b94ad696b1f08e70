from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from retrieval.models import Collection, Image, Purpose, Role, ServiceAccount
from tests.factories import grant, make_account, make_image, make_token
from tests.web.conftest import collection, encoder_answers, jpeg, log, log_blocked

__all__ = ["collection", "encoder_answers", "log", "log_blocked"]

Program = Callable[..., Client]


@pytest.fixture
def account(collection: Collection) -> ServiceAccount:
    """A program that is a curator of the collection, for treatment and research."""
    account = make_account()
    grant(account, collection, Role.CURATOR, Purpose.TREATMENT, Purpose.RESEARCH)
    return account


@pytest.fixture
def program(account: ServiceAccount, collection: Collection) -> Client:
    """The program, with a token for all it may be for, for treatment."""
    return with_token(make_token(account, collection)[1])


@pytest.fixture
def image(collection: Collection) -> Image:
    return make_image(collection, [1.0, 0.0, 0.0], name="meier.jpg", preview=jpeg())


def with_token(text: str, headers: dict[str, str] | None = None) -> Client:
    return Client(
        raise_request_exception=False, headers={"Authorization": f"Bearer {text}"} | (headers or {})
    )


def ask(client: Client, **query: Any) -> Any:
    """The answer to a search for anything, or for what `query` says."""
    return client.post(
        "/api/v1/search", query or {"words": "anything"}, content_type="application/json"
    )
