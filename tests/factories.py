"""Rows as tests need them, made the way the application makes them."""

import base64
import io
import itertools
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from unittest import mock

import numpy as np
from django.test import Client
from django.utils import timezone
from django_otp.oath import totp
from PIL import Image as Picture

from retrieval import access, index, keys, second_factor, storage, tokens
from retrieval.models import (
    ApiToken,
    Collection,
    EncoderVersion,
    Grant,
    Image,
    ImportBatch,
    PrivacyProfile,
    Purpose,
    Role,
    Scope,
    ServiceAccount,
    State,
    User,
)
from retrieval.storage import Form
from tests import database

_numbers = itertools.count(1)


def operator() -> User:
    return User.objects.get(username=access.OPERATOR)


def make_user(name: str = "", **fields: Any) -> User:
    return User.objects.create_user(
        username=name or f"user-{next(_numbers)}",
        password="correct horse battery",
        **fields,
    )


def enrol(user: User) -> list[str]:
    """Set up the user's second factor with a code as an app would show it; the recovery codes.

    As of last week: one of today breaks no glass.
    """
    last_week = timezone.now() - timedelta(days=7)
    with mock.patch("retrieval.second_factor.timezone.now", return_value=last_week):
        return enrol_now(user)


def enrol_now(user: User) -> list[str]:
    draft = second_factor.draft_key(user)
    codes = second_factor.enrol(user, draft, app_code(user, draft))
    assert codes is not None
    return codes


def app_code(user: User, sealed_key: bytes, *, steps_ahead: int = 0) -> str:
    """What an authenticator app with this key shows now, or `steps_ahead` half minutes later."""
    key = base64.b32decode(second_factor.shown_key(user, sealed_key))
    return f"{totp(key, t0=-30 * steps_ahead):06d}"


def pass_second_factor(client: Client, user: User) -> None:
    """What comes after the password, through the page: for tests about what lies behind it.

    A recovery code, since the app's own was used up a moment ago by enrolling.
    """
    checks_tokens, client.handler.enforce_csrf_checks = client.handler.enforce_csrf_checks, False
    is_enrolled = second_factor.is_enrolled(user)
    codes = second_factor.renew_recovery_codes(user) if is_enrolled else enrol(user)
    answer = client.post("/second-factor", {"code": codes[0]})
    client.handler.enforce_csrf_checks = checks_tokens
    assert answer.status_code == 302


def make_collection(name: str = "", profile: str = "photographs", **fields: Any) -> Collection:
    """Without parts unless asked for: a test's pictures are encoded once, not five times."""
    return access.open_collection(
        name=name or f"collection {next(_numbers)}",
        profile=PrivacyProfile.objects.get(name=profile),
        actor=operator(),
        **({"finds_parts": False} | fields),
    )


def grant(
    user: User,
    collection: Collection,
    role: Role = Role.SEARCHER,
    *purposes: Purpose,
    **fields: Any,
) -> Grant:
    return access.give_grant(
        collection,
        role,
        list(purposes or [Purpose.TREATMENT]),
        user=user,
        granted_by=operator(),
        **fields,
    )


def make_token(
    account: ServiceAccount,
    *collections: Collection,
    scopes: Sequence[Scope] = tuple(Scope),
    purposes: Sequence[Purpose] = (Purpose.TREATMENT,),
    **fields: Any,
) -> tuple[ApiToken, str]:
    """A token for all that a token may be for, for an hour, unless told otherwise."""
    return tokens.issue(
        account,
        name="a test",
        scopes=scopes,
        collections=[collection.pk for collection in collections],
        purposes=purposes,
        **(
            {"expires_at": timezone.now() + timedelta(hours=1), "issued_by": account.responsible}
            | fields
        ),
    )


def make_account(responsible: User | None = None) -> ServiceAccount:
    """A program without grants, and a person who answers for it."""
    return tokens.open_account(
        f"program-{next(_numbers)}",
        responsible=responsible or make_user(),
        opened_by=operator(),
    )


def make_encoder(dimensions: int = 3, name: str = "test-encoder") -> EncoderVersion:
    """Registered by a worker, as each is."""
    with database.role("worker"):
        return index.register_encoder(
            name=name, digest="0" * 64, dimensions=dimensions, licence="none"
        )


def make_image(
    collection: Collection,
    vector: Sequence[float] | None = None,
    *,
    state: State = State.INDEXED,
    name: str = "picture.png",
    preview: bytes | None = None,
    **fields: Any,
) -> Image:
    """One image as it stands after its way, without walking it."""
    (image,) = make_images(
        collection,
        None if vector is None else [vector],
        state=state,
        name=name,
        **fields,
    )
    if preview is not None:
        storage.write_bytes(image, Form.PREVIEW, preview)
        storage.write_bytes(image, Form.THUMBNAIL, preview)
    return image


def make_images(
    collection: Collection,
    vectors: Sequence[Sequence[float]] | None,
    *,
    state: State = State.INDEXED,
    name: str = "picture.png",
    names: Sequence[str] = (),
    **fields: Any,
) -> list[Image]:
    """As many images as vectors, or one without; each of the same name unless `names` are told."""
    acting = operator()
    images = []
    with access.acting_as(acting, Purpose.ADMINISTRATION):
        batch = ImportBatch.objects.create(collection=collection, started_by=acting)
        for called in names or [name] * (1 if vectors is None else len(vectors)):
            image_id = uuid.uuid4()
            data_key, wrapped_key = keys.new_data_key(image_id)
            images.append(
                Image(
                    pk=image_id,
                    collection=collection,
                    batch=batch,
                    state=state,
                    content_key=image_id.bytes,
                    wrapped_key=wrapped_key,
                    sealed_name=storage.seal_source_name(called, data_key=data_key),
                    **(
                        {
                            "media_type": "image/png",
                            "rules_digest": collection.profile.rules_digest,
                        }
                        | fields
                    ),
                )
            )
        Image.objects.bulk_create(images)
    if vectors is not None:
        encoder = index.live_encoder()
        rows = np.asarray(vectors, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        with database.role("worker"), access.processing(collection.pk):
            index.store_all(collection.pk, [i.pk for i in images], rows, encoder=encoder)
    return images


def png(side: int = 32, colour: tuple[int, int, int] = (90, 120, 150)) -> bytes:
    """A plain picture as a file's bytes."""
    file = io.BytesIO()
    Picture.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()
