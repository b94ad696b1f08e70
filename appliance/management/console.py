"""What every command of ours does alike: refuse in one line, and know the names it is given."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.core.management.base import CommandError
from django.db import DatabaseError, InterfaceError
from rich.console import Console

from appliance import env
from appliance.embedded import supervisor
from appliance.embedded.supervisor import Appliance, Program
from retrieval import access
from retrieval.errors import CloisterError
from retrieval.models import Collection, Purpose, User

progress_console: Final = Console(stderr=True)
"""Progress goes here: stdout stays clean for the one JSON document."""


@contextmanager
def services(*, workers: tuple[Program, ...] = ()) -> Iterator[Appliance | None]:
    """The appliance's services for one command, and every deliberate error as one line, exit 1."""
    try:
        with supervisor.attached(env.data_folder(), programs=workers) as own:
            access.require_bound_role()
            yield own
    except CloisterError as error:
        raise CommandError(str(error)) from error
    except (DatabaseError, InterfaceError) as error:
        raise CommandError("the database does not answer") from error


def find_collection(name: str) -> Collection:
    try:
        return Collection.objects.get(name=name)
    except Collection.DoesNotExist as error:
        raise CommandError(f"no collection named {name!r}") from error


def find_user(name: str) -> User:
    try:
        return User.objects.get(username=name, is_active=True)
    except User.DoesNotExist as error:
        raise CommandError(f"no active user named {name!r}") from error


def find_purpose(code: str) -> Purpose:
    try:
        return Purpose(code)
    except ValueError as error:
        known = ", ".join(Purpose.values)
        raise CommandError(f"no purpose of use {code!r}; there are {known}") from error
