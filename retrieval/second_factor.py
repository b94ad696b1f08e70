"""The second factor: an authenticator app, and recovery codes on paper for when it is lost.

Keys are sealed and codes hashed under the key file, which is why these are tables of our own
rather than those of django-otp's plugins; of that library the arithmetic (RFC 6238) is used.
"""

import base64
import re
import secrets
import time
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from urllib.parse import quote, urlencode

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django_otp.oath import TOTP

from retrieval import audit, keys
from retrieval.errors import AccessDenied
from retrieval.models import Authenticator, Grant, Kind, RecoveryCode, User
from retrieval.models.grant import Capability, roles_with

KEY_BYTES: Final = 20
"""As long as SHA-1's output (RFC 4226, section 4, R6)."""

STEPS_OFF: Final = 1
"""How many steps of thirty seconds the app's clock may be off, either way."""

RECOVERY_CODES: Final = 10
RECOVERY_BYTES: Final = 15
"""120 bits: too many to guess, so that a keyed hash is enough (OWASP ASVS 5.0, 6.5.2)."""

LONGEST_WAIT_S: Final = 3600


class Outcome(StrEnum):
    PASSED = "passed"
    WRONG = "wrong"
    TOO_SOON = "too soon"


def is_required(user: User) -> bool:
    """Whether this user may do nothing with a password alone.

    Administrators, and whoever holds a grant to review, for whatever purpose and time: who will
    be a reviewer tomorrow enrols today.
    """
    if user.is_staff or user.is_superuser:
        return True
    return Grant.objects.filter(
        Q(user=user) | Q(group__in=user.groups.all()), role__in=roles_with(Capability.REVIEW)
    ).exists()


def is_enrolled(user: User) -> bool:
    return Authenticator.objects.filter(user=user).exists()


def recovery_codes_left(user: User) -> int:
    return RecoveryCode.objects.filter(user=user).count()


def draft_key(user: User) -> bytes:
    """A fresh key, sealed for this user. It counts once a code of it was shown: see `enrol`."""
    return keys.seal_authenticator(secrets.token_bytes(KEY_BYTES), context=_context(user))


def shown_key(user: User, sealed_key: bytes) -> str:
    """The key as a person types it into an app: base32."""
    key = keys.unseal_authenticator(sealed_key, context=_context(user))
    return base64.b32encode(key).decode()


def address(user: User, sealed_key: bytes) -> str:
    """The key as apps read it from a QR code: an otpauth address."""
    label = quote(f"Cloister:{user.get_username()}")
    query = {"secret": shown_key(user, sealed_key), "issuer": "Cloister"}
    return f"otpauth://totp/{label}?{urlencode(query)}"


def enrol(user: User, sealed_key: bytes, code: str) -> list[str] | None:
    """Take the app whose key this is, in place of an earlier one, and hand out recovery codes.

    None where `code` is not the app's current one: then nothing is changed.
    """
    step = _step_of(user, sealed_key, code, later_than=-1)
    if step is None:
        return None
    with transaction.atomic():
        earlier = Authenticator.objects.filter(user=user).first()
        since = timezone.now() if earlier is None else earlier.enrolled_at
        Authenticator.objects.filter(user=user).delete()
        Authenticator.objects.create(
            user=user, sealed_key=sealed_key, last_step=step, enrolled_at=since
        )
        codes = _replace_recovery_codes(user)
        audit.record_in_transaction(
            Kind.SECOND_FACTOR_CHANGED, actor=user, user=user.pk, change="enrolled"
        )
    return codes


def renew_recovery_codes(user: User) -> list[str]:
    """New codes; the old ones are void. They are shown once: only hashes are kept."""
    with transaction.atomic():
        codes = _replace_recovery_codes(user)
        audit.record_in_transaction(
            Kind.SECOND_FACTOR_CHANGED, actor=user, user=user.pk, change="recovery codes renewed"
        )
    return codes


def reset(user: User, *, actor: User) -> None:
    """Forget app and codes of somebody who lost both. Raises AccessDenied for one's own.

    Sessions that the app opened are signed in with a password only from the next request on.
    """
    if actor.pk == user.pk:
        raise AccessDenied("a second factor is reset by somebody else")
    with transaction.atomic():
        Authenticator.objects.filter(user=user).delete()
        RecoveryCode.objects.filter(user=user).delete()
        audit.record_in_transaction(
            Kind.SECOND_FACTOR_CHANGED, actor=actor, user=user.pk, change="reset"
        )


def verify(user: User, code: str) -> Outcome:
    """Try a code of the app or a recovery code; taken, it is used up. On the log either way.

    Each wrong code doubles the wait before the next is looked at.
    """
    with transaction.atomic():
        authenticator = Authenticator.objects.select_for_update().filter(user=user).first()
        if authenticator is None:
            outcome, by = Outcome.WRONG, "nothing"
        elif timezone.now() < _opens_at(authenticator):
            outcome, by = Outcome.TOO_SOON, "nothing"
        else:
            by = _use_up(authenticator, user, code)
            outcome = Outcome.WRONG if by == "nothing" else Outcome.PASSED
            _count(authenticator, outcome)
        if outcome is Outcome.PASSED:
            audit.record_in_transaction(Kind.SECOND_FACTOR_PASSED, actor=user, by=by)
        else:
            audit.record_in_transaction(
                Kind.SECOND_FACTOR_FAILED, actor=user, outcome=outcome.value
            )
    return outcome


def _context(user: User) -> bytes:
    return b"authenticator of user %d" % user.pk


def _use_up(authenticator: Authenticator, user: User, code: str) -> str:
    """By what `code` passes: "app", "recovery code" or "nothing"."""
    step = _step_of(user, bytes(authenticator.sealed_key), code, later_than=authenticator.last_step)
    if step is not None:
        authenticator.last_step = step
        return "app"
    # Deleting it is what takes it: of two requests at once one deletes a row.
    used, _ = RecoveryCode.objects.filter(user=user, code_hash=_hash(user, code)).delete()
    return "recovery code" if used else "nothing"


def _step_of(user: User, sealed_key: bytes, code: str, *, later_than: int) -> int | None:
    """The time step whose code this is, if it is one of the app's now."""
    digits = "".join(code.split())
    if re.fullmatch(r"[0-9]{6}", digits) is None:
        return None
    totp = TOTP(keys.unseal_authenticator(sealed_key, context=_context(user)))
    totp.time = time.time()
    found = totp.verify(int(digits), tolerance=STEPS_OFF, min_t=later_than + 1)
    return int(totp.t()) if found else None


def _count(authenticator: Authenticator, outcome: Outcome) -> None:
    if outcome is Outcome.PASSED:
        authenticator.failures, authenticator.failed_at = 0, None
    else:
        authenticator.failures += 1
        authenticator.failed_at = timezone.now()
    authenticator.save(update_fields=["failures", "failed_at", "last_step"])


def _opens_at(authenticator: Authenticator) -> datetime:
    """When the next code is looked at: 1, 2, 4, … seconds after the last wrong one."""
    if authenticator.failed_at is None:
        return authenticator.enrolled_at
    # At twelve failures the doubling is past its limit.
    wait_s = min(2 ** (min(authenticator.failures, 13) - 1), LONGEST_WAIT_S)
    return authenticator.failed_at + timedelta(seconds=wait_s)


def _replace_recovery_codes(user: User) -> list[str]:
    RecoveryCode.objects.filter(user=user).delete()
    codes = [_new_recovery_code() for _ in range(RECOVERY_CODES)]
    RecoveryCode.objects.bulk_create(
        [RecoveryCode(user=user, code_hash=_hash(user, code)) for code in codes]
    )
    return codes


def _new_recovery_code() -> str:
    letters = base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower()
    return "-".join(letters[i : i + 4] for i in range(0, len(letters), 4))


def _hash(user: User, code: str) -> str:
    letters = re.sub(r"[\s-]", "", code).lower()
    return keys.keyed_hash(f"{user.pk} {letters}", use="recovery codes")
