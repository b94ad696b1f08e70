"""System checks: what the web side refuses to start with."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import DatabaseError

from appliance import env
from retrieval import access
from retrieval.errors import ServicesUnavailable


@register(Tags.database)
def database_role_is_bound(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None, **_kwargs: Any
) -> list[CheckMessage]:
    """Row-level security holds this process's role (not asked of the owner, who migrates)."""
    if not databases or env.database_role() == "owner":
        return []
    try:
        access.require_bound_role()
    except (ServicesUnavailable, DatabaseError) as error:
        return [Error(str(error).splitlines()[0], id="cloister.E001")]
    return []
