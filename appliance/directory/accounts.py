"""An entry of a directory as an account of ours: made at its first sign-in, kept as it says."""

import logging
from dataclasses import dataclass

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import transaction

from retrieval import audit
from retrieval.models import Kind, User
from retrieval.models.user import Directory

log = logging.getLogger("cloister.directory")


@dataclass(frozen=True)
class Entry:
    """id: what never changes there, though the name may. groups: the directory's names of them."""

    directory: Directory
    id: str
    name: str
    groups: frozenset[str]


def account_of(entry: Entry) -> User | None:
    """The account, as the directory describes it now; None where it may not sign in.

    An account that was made here is never taken over by an entry of the same name.
    """
    with transaction.atomic():
        user = User.objects.filter(directory=entry.directory, directory_id=entry.id).first()
        if user is None:
            user = _open(entry)
        if user is None or not user.is_active:
            return None
        keep(user, entry)
    return user


def keep(user: User, entry: Entry) -> None:
    """Bring groups and staff status to what the directory says; groups of ours alone stay."""
    mapped = settings.CLOISTER_SIGN_IN.groups
    ours = set(mapped.values())
    wanted = {mapped[theirs] for theirs in entry.groups & mapped.keys()}
    with transaction.atomic():
        had = set(user.groups.filter(name__in=ours).values_list("name", flat=True))
        for name in wanted - had:
            user.groups.add(Group.objects.get_or_create(name=name)[0])
        user.groups.remove(*Group.objects.filter(name__in=had - wanted))
        changed = ["groups"] if wanted != had else []
        staff_groups = settings.CLOISTER_SIGN_IN.staff_groups
        # Without a mapping nobody is staff by the directory, and whom we made staff stays it.
        is_staff = bool(entry.groups & staff_groups) if staff_groups else user.is_staff
        if is_staff != user.is_staff:
            user.is_staff = is_staff
            user.save(update_fields=["is_staff"])
            changed.append("is_staff")
        if changed:
            _record(user, "directory", changed)


def _open(entry: Entry) -> User | None:
    if User.objects.filter(username__iexact=entry.name).exists():
        log.error("an entry of the %s directory has the name of another account", entry.directory)
        return None
    user = User(username=entry.name, directory=entry.directory, directory_id=entry.id)
    user.set_unusable_password()
    try:
        user.full_clean()
    except ValidationError:
        log.error("an entry of the %s directory has no possible name", entry.directory)  # noqa: TRY400  it quotes the name
        return None
    user.save()
    _record(user, "made from directory", [])
    return user


def _record(user: User, change: str, fields: list[str]) -> None:
    audit.record_in_transaction(
        Kind.USER_CHANGED, actor=user, user=user.pk, change=change, fields=fields
    )
