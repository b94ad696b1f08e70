"""Tickets: a picture that a recorded answer shows can be fetched without a record of its own.

A ticket opens one image for one user, session and purpose, for a while. It leaves the appliance
only in an answer whose audit entry is committed, so what a ticket fetches is on the log.
"""

import hashlib
from typing import Final
from uuid import UUID

from django.core.signing import BadSignature, TimestampSigner
from django.http import HttpRequest

from appliance.web.purpose import actor_of
from retrieval.models import Purpose

LIFETIME_S: Final = 3600


def issue(request: HttpRequest, image_id: UUID, purpose: Purpose) -> str:
    return _signer(request, image_id, purpose).sign("").lstrip(":")


def opens(request: HttpRequest, ticket: str, image_id: UUID, purpose: Purpose) -> bool:
    try:
        _signer(request, image_id, purpose).unsign(f":{ticket}", max_age=LIFETIME_S)
    except BadSignature:
        return False
    return True


def _signer(request: HttpRequest, image_id: UUID, purpose: Purpose) -> TimestampSigner:
    session = hashlib.sha256((request.session.session_key or "").encode()).hexdigest()
    return TimestampSigner(
        salt=f"ticket for {image_id} to {actor_of(request).pk} for {purpose} in {session}"
    )
