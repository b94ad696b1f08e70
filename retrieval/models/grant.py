from enum import StrEnum
from typing import Final

from django.conf import settings
from django.contrib.auth.models import Group
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone


class Purpose(models.TextChoices):
    """Why somebody looks: codes of HL7 v3 value set PurposeOfUse."""

    TREATMENT = "TREAT", "Treatment"
    EMERGENCY = "ETREAT", "Emergency treatment"
    RESEARCH = "HRESCH", "Healthcare research"
    OPERATIONS = "HOPERAT", "Healthcare operations"
    PUBLIC_HEALTH = "PUBHLTH", "Public health"
    ADMINISTRATION = "HSYSADMIN", "Health system administration"


class Role(models.TextChoices):
    VIEWER = "viewer", "Viewer"
    SEARCHER = "searcher", "Searcher"
    CURATOR = "curator", "Curator"
    REVIEWER = "reviewer", "Reviewer"
    OWNER = "owner", "Owner"


class Capability(StrEnum):
    VIEW = "view"
    SEARCH = "search"
    SEE_SOURCE_NAMES = "see_source_names"
    INGEST = "ingest"
    REVIEW = "review"


CAPABILITIES: Final[dict[Role, frozenset[Capability]]] = {
    Role.VIEWER: frozenset({Capability.VIEW}),
    Role.SEARCHER: frozenset({Capability.VIEW, Capability.SEARCH}),
    Role.CURATOR: frozenset(
        {Capability.VIEW, Capability.SEARCH, Capability.SEE_SOURCE_NAMES, Capability.INGEST}
    ),
    Role.REVIEWER: frozenset({Capability.VIEW, Capability.SEE_SOURCE_NAMES, Capability.REVIEW}),
    Role.OWNER: frozenset(Capability),
}
"""What each role may do. The one table; row-level security knows its write side, and a test
holds the two together."""


def roles_with(capability: Capability) -> list[Role]:
    return [role for role, capabilities in CAPABILITIES.items() if capability in capabilities]


class Grant(models.Model):
    """A user or a group may act in a collection, in a role, for purposes, for a time."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE
    )
    group = models.ForeignKey(Group, null=True, blank=True, on_delete=models.CASCADE)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.CASCADE)
    role = models.CharField(max_length=10, choices=Role.choices)
    purposes = ArrayField(models.CharField(max_length=12, choices=Purpose.choices))
    valid_from = models.DateTimeField(default=timezone.now)
    valid_until = models.DateTimeField(null=True, blank=True)
    granted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="grants_given",
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="grant_to_a_user_or_a_group",
                condition=models.Q(user__isnull=False, group__isnull=True)
                | models.Q(user__isnull=True, group__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"grant {self.pk}: {self.role} in collection {self.collection_id}"
