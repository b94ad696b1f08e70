"""One appliance for the whole run: real PostgreSQL and Valkey, and the real, bound database role.

Tests run as `cloister_web` with real commits; the tables are emptied before each. A test that
plays a worker uses `as_worker`; one that plays a database administrator uses `superuser`.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from pytest_django.plugin import DjangoDbBlocker

from tests import database, early

if TYPE_CHECKING:
    from appliance.embedded.supervisor import Appliance

LONGEST = (
    "flow/test_video.py",
    "flow/test_from_folder_to_search.py",
    "browser/test_by_keyboard.py",
    "flow/test_up.py",
    "security/test_route_matrix.py",
    "security/test_log_fails_closed.py",
    "embedded/test_supervisor.py",
    "benchmark/test_command.py",
    "workers/test_finetune_command.py",
    "encode/test_embedded.py",
    "browser/test_review.py",
    "api/test_schema.py",
    "retrieval/test_index.py",
    "security/test_pooling.py",
)
"""Begun first, where files run side by side: who gets one of these last has the others wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def var() -> Iterator[Path]:
    """The data folder of this run's appliance."""
    yield early.var
    shutil.rmtree(early.var, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _passwords_are_hashed_cheaply() -> None:
    """Argon2 as ever, which the real web process can verify, but without its cost per user."""
    from django.contrib.auth.hashers import Argon2PasswordHasher

    Argon2PasswordHasher.time_cost = 1
    Argon2PasswordHasher.memory_cost = 64
    Argon2PasswordHasher.parallelism = 1


@pytest.fixture(scope="session", autouse=True)
def _static_files_are_looked_for_when_asked() -> None:
    """Each test client loads WhiteNoise anew, which would walk all static files each time."""
    from django.conf import settings

    settings.WHITENOISE_AUTOREFRESH = True


@pytest.fixture(scope="session")
def services(var: Path, django_db_blocker: DjangoDbBlocker) -> Iterator["Appliance"]:
    """PostgreSQL and Valkey, started as `manage.py up` starts them, and the key file."""
    from appliance.embedded import supervisor

    with django_db_blocker.unblock(), supervisor.running(var, serves=True) as appliance:
        yield appliance


@pytest.fixture
def db(services: object, var: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Empty tables, and leave to use them. Takes the place of pytest-django's fixture."""
    database.empty(var)
    with django_db_blocker.unblock():
        yield
        database.rest()


@pytest.fixture
def superuser(db: None, var: Path) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection that no policy holds, as a curious database administrator has it."""
    with database.connect(var, "superuser") as connection:
        yield connection


@pytest.fixture
def as_worker(db: None, var: Path) -> Iterator[None]:
    """This test's default connection becomes the worker's role."""
    with database.role("worker"):
        yield
