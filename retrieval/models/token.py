import uuid
from datetime import timedelta
from typing import Final

from django.contrib.auth.models import UserManager
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from retrieval.models.grant import Purpose
from retrieval.models.user import User

LONGEST_LIFE: Final = timedelta(days=366)
MAX_PER_MINUTE: Final = 600
MAX_QUERIES_PER_DAY: Final = 100_000


class Scope(models.TextChoices):
    """What a token is for. Each route of the API asks for one of these."""

    SEARCH = "search", "Search and look at images"
    INGEST = "ingest", "Hand in images"
    STATUS = "status", "Follow imports, and prove one's own entries in the log"
    ADMIN_TOKENS = "admin:tokens", "Rotate itself"


class ServiceAccountManager(UserManager["ServiceAccount"]):
    use_in_migrations = False

    def get_queryset(self) -> models.QuerySet["ServiceAccount"]:
        return super().get_queryset().filter(responsible__isnull=False)


class ServiceAccount(User):
    """A program with a name of its own on the log. It has tokens and never signs in."""

    objects = ServiceAccountManager()  # type: ignore[misc]  # rows of its own

    class Meta:
        proxy = True


class ApiToken(models.Model):
    """What a program shows instead of signing in. It narrows its account's grants.

    A row never becomes another one: it is revoked, or ends earlier. The token itself is nowhere;
    `digest` is its keyed hash, so that whoever may write rows cannot make a token.
    """

    account = models.ForeignKey(ServiceAccount, on_delete=models.PROTECT, related_name="tokens")
    name = models.CharField(max_length=60, help_text="Where it is used. Shown here only.")
    series = models.UUIDField(
        default=uuid.uuid4,
        editable=False,
        help_text="A token and those it was rotated into: they share limits and entries.",
    )
    predecessor = models.ForeignKey(
        "self", null=True, editable=False, on_delete=models.PROTECT, related_name="successors"
    )
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope.choices))
    collections = ArrayField(models.BigIntegerField())
    purposes = ArrayField(models.CharField(max_length=12, choices=Purpose.choices))
    per_minute = models.PositiveIntegerField(default=60, help_text="Requests a minute.")
    queries_per_day = models.PositiveIntegerField(default=1000, help_text="Queries a day (UTC).")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        User, null=True, editable=False, on_delete=models.SET_NULL, related_name="tokens_issued"
    )
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                name="token_names_what_it_is_for",
                condition=Q(scopes__len__gte=1, collections__len__gte=1, purposes__len__gte=1),
            ),
            models.CheckConstraint(
                name="token_ends_within_a_year",
                condition=Q(expires_at__lte=F("created_at") + LONGEST_LIFE),
            ),
            models.CheckConstraint(
                name="token_has_limits",
                condition=Q(
                    per_minute__gte=1,
                    per_minute__lte=MAX_PER_MINUTE,
                    queries_per_day__gte=1,
                    queries_per_day__lte=MAX_QUERIES_PER_DAY,
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"token {self.pk}"

    @property
    def is_live(self) -> bool:
        return self.revoked_at is None and self.expires_at > timezone.now()


class TokenUse(models.Model):
    """What a series of tokens has used up. Counted in the database: no restart forgets it."""

    series = models.UUIDField(primary_key=True)
    last_used_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(
        default=timezone.now,
        help_text="When the requests so far would have been made, evenly spaced (GCRA).",
    )
    day = models.DateField(null=True)
    queries = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"use of the tokens {self.series}"
