"""Every route against its own document: requests that fit it, and requests that do not.

EXAMPLES says how many of each kind a route gets; `SCHEMA_EXAMPLES=20` makes a long run of it.
"""

import hashlib
import os
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.utils import timezone
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from retrieval import queue, receive, tokens, uploads
from retrieval.models import (
    Collection,
    Image,
    Purpose,
    Role,
    Scope,
    ServiceAccount,
    TokenUse,
)
from tests.factories import make_token

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "1"))

UNSAID_IN_SCHEMAS = {"send_part", "finish_upload"}
"""What a part must be depends on the parts before it, which no schema says."""


@pytest.fixture
def encoder_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different queries point elsewhere, so that wanted and unwanted do not cancel out."""

    def encoded(parts: Any, **_: Any) -> queue.QueryVectors:
        seeds = [hashlib.sha256(repr(part).encode()).digest()[:8] for part in parts]
        vectors = [
            np.random.default_rng(int.from_bytes(seed)).normal(size=3).astype(np.float32)
            for seed in seeds
        ]
        return queue.QueryVectors("test-encoder", tuple(v / np.linalg.norm(v) for v in vectors))

    monkeypatch.setattr(queue, "encode_query", encoded)


def contract_breaks(text: str, known: dict[str, str], examples: int) -> list[str]:
    document = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", WSGIHandler())
    found = []
    for result in document.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]  # an invalid document raises here
        name = operation.definition.raw["operationId"]
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                check_route(operation, mode, text, known, examples)
            except BaseExceptionGroup as failures:
                found += [f"{name} {mode.name}: {failure}" for failure in failures.exceptions]
            except Exception as failure:  # noqa: BLE001  listed with the others
                found.append(f"{name} {mode.name}: {failure!r}")
    return found


def has_empty_file(body: Any) -> bool:
    """werkzeug's encoder leaves out the blank line before an empty part: what it sends is no form.
    Empty files sent as they should be are in test_ingest.py."""
    parts = body.values() if isinstance(body, dict) else []
    files = [file for part in parts for file in (part if isinstance(part, list) else [part])]
    return any(getattr(file, "data", None) == b"" for file in files)


def check_route(
    operation: Any, mode: GenerationMode, text: str, known: dict[str, str], examples: int
) -> None:
    name = operation.definition.raw["operationId"]
    fits = mode is GenerationMode.POSITIVE
    left_out = [checks.positive_data_acceptance] if name in UNSAID_IN_SCHEMAS else []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        TokenUse.objects.update(due_at=timezone.now(), queries=0)
        if fits:
            assume(not has_empty_file(case.body))
            case.path_parameters |= {k: v for k, v in known.items() if k in case.path_parameters}
            case.query.pop("cursor", None)
            case.headers.pop("Purpose-Of-Use", None)
            if "Idempotency-Key" in case.headers:
                case.headers["Idempotency-Key"] = uuid.uuid4().hex
        case.call_and_validate(
            headers={"Authorization": f"Bearer {text}"}, excluded_checks=left_out
        )

    ask()


Roled = Callable[[Role], tuple[str, dict[str, str]]]


@pytest.fixture
def roled(
    account: ServiceAccount,
    collection: Collection,
    image: Image,
    encoder_tells_apart: None,
) -> Roled:
    """A token of a program in a role, and the ids of what is there for it."""

    def made(role: Role) -> tuple[str, dict[str, str]]:
        _, text = make_token(account, collection, scopes=[Scope.SEARCH, Scope.INGEST, Scope.STATUS])
        actor = tokens.let_in(text)
        treatment = Purpose.TREATMENT
        batch = receive.start_batch(collection, actor=actor, purpose=treatment)
        upload = uploads.start(batch, "a.png", 1000, actor=actor, purpose=treatment)
        account.grant_set.update(role=role)
        return text, {
            "image_id": str(image.pk),
            "job": str(batch.pk),
            "upload_id": str(upload.pk),
            "collection": str(collection.pk),
        }

    return made


@pytest.mark.parametrize("role", [Role.CURATOR, Role.SEARCHER])
def test_no_route_breaks_its_contract_in_any_role(role: Role, roled: Roled) -> None:
    text, known = roled(role)

    broken = contract_breaks(text, known, EXAMPLES)
    assert not broken, "\n\n".join(broken)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER, Role.OWNER])
def test_no_route_breaks_its_contract_in_a_long_run_of_all_roles(role: Role, roled: Roled) -> None:
    text, known = roled(role)

    broken = contract_breaks(text, known, max(1, EXAMPLES // 3))
    assert not broken, "\n\n".join(broken)
