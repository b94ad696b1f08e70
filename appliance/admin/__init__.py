"""The administration: one file per subject. An administrator sees no image by being one."""

from django.contrib import admin

from appliance.admin import (
    audit,
    break_glass,
    budgets,
    certificates,
    collections,
    grants,
    holds,
    images,
    jobs,
    kept_queries,
    models,
    tokens,
    users,
)

__all__ = [
    "audit",
    "break_glass",
    "budgets",
    "certificates",
    "collections",
    "grants",
    "holds",
    "images",
    "jobs",
    "kept_queries",
    "models",
    "tokens",
    "users",
]

# It would delete outside of a transaction: a change and its entry in the log belong in one.
admin.site.disable_action("delete_selected")
