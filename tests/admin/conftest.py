import pytest
from django.test import Client

from retrieval.models import Collection, Purpose, Role, User
from tests.factories import grant, make_collection, make_encoder, make_user
from tests.web.conftest import log, log_blocked, signed_in

__all__ = ["log", "log_blocked"]


@pytest.fixture
def collection(db: None) -> Collection:
    make_encoder()
    return make_collection("ward photographs")


@pytest.fixture
def administrator(db: None) -> User:
    """All rights in the administration, and no grant."""
    return make_user("ada", is_staff=True, is_superuser=True)


@pytest.fixture
def browser(administrator: User) -> Client:
    return signed_in(administrator)


@pytest.fixture
def owner(administrator: User, collection: Collection) -> User:
    """The administrator, with a grant for administration in the collection."""
    grant(administrator, collection, Role.OWNER, Purpose.ADMINISTRATION)
    return administrator
