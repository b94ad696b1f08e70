import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest
from django.test import Client
from PIL import Image as Picture

from retrieval import queue, second_factor
from retrieval.models import Collection, Role, User
from tests.factories import grant, make_collection, make_encoder, make_user, pass_second_factor

Superuser = psycopg.Connection[tuple[Any, ...]]
Log = Callable[[str], list[dict[str, Any]]]
Blocked = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def collection(db: None) -> Collection:
    make_encoder()
    return make_collection("ward photographs")


@pytest.fixture
def reader(collection: Collection) -> User:
    """May search the collection for treatment; may not see source names."""
    user = make_user("reader")
    grant(user, collection, Role.SEARCHER)
    return user


@pytest.fixture
def browser(reader: User) -> Client:
    """The reader, signed in."""
    return signed_in(reader)


@pytest.fixture
def encoder_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any query points along x. The real encoder is asked in tests/flow."""
    along_x = np.array([1, 0, 0], np.float32)

    def encode_query(parts: Sequence[queue.ToEncode], **_: object) -> queue.QueryVectors:
        return queue.QueryVectors("test-encoder", (along_x,) * len(parts))

    monkeypatch.setattr(queue, "encode_query", encode_query)


@pytest.fixture
def log(superuser: Superuser) -> Log:
    """The details of the log's entries of one kind, oldest first."""

    def entries(kind: str) -> list[dict[str, Any]]:
        rows = superuser.execute(
            "SELECT details FROM retrieval_auditevent WHERE kind = %s ORDER BY number", [kind]
        )
        return [json.loads(str(details)) for (details,) in rows]

    return entries


@pytest.fixture
def log_blocked(superuser: Superuser) -> Blocked:
    """A context in which no entry can be committed."""

    @contextmanager
    def blocked() -> Iterator[None]:
        with superuser.transaction():
            superuser.execute("LOCK TABLE retrieval_audithead IN ACCESS EXCLUSIVE MODE")
            yield

    return blocked


def signed_in(user: User, **options: Any) -> Client:
    """A client of this user, with the second factor where the user needs one."""
    client = Client(raise_request_exception=False, **options)
    client.force_login(user)
    if second_factor.is_required(user) and not user.must_change_password:
        pass_second_factor(client, user)
    return client


def jpeg(colour: tuple[int, int, int] = (90, 120, 150)) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (64, 48), colour).save(file, "JPEG")
    return file.getvalue()
