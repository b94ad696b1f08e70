import uuid

from django.conf import settings
from django.db import models
from django.utils import timezone


class Verdict(models.TextChoices):
    JUSTIFIED = "justified", "Justified"
    NOT_JUSTIFIED = "not_justified", "Not justified"


class BreakGlass(models.Model):
    """Somebody without a grant opened a collection in an emergency, for a while.

    It is written and reviewed by the database's own functions only, which set who and when
    (migration 0011): neither role of the appliance inserts or updates a row.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="glass_broken",
    )
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    originals = models.BooleanField(help_text="Whether original pixels may be looked at, too.")
    sealed_reason = models.BinaryField(help_text="Why, in the person's words: they may name one.")
    opened_at = models.DateTimeField()
    open_until = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    verdict = models.CharField(max_length=13, choices=Verdict.choices, blank=True)
    reviewed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="glass_reviewed",
    )
    reviewed_at = models.DateTimeField(null=True)

    class Meta:
        # Those who wait for a second person come first.
        ordering = [models.F("reviewed_at").desc(nulls_first=True), "-opened_at"]
        default_permissions = ()
        permissions = [("review_breakglass", "Can review who broke the glass")]
        verbose_name = verbose_name_plural = "break-glass"
        indexes = [models.Index(fields=["user", "open_until"])]
        constraints = [
            models.CheckConstraint(
                name="glass_is_broken_for_a_while",
                condition=models.Q(open_until__gt=models.F("opened_at")),
            ),
            models.CheckConstraint(
                name="glass_is_reviewed_by_a_second_person",
                condition=models.Q(verdict="", reviewed_by__isnull=True, reviewed_at__isnull=True)
                | models.Q(
                    ~models.Q(reviewed_by=models.F("user")),
                    verdict__in=Verdict.values,
                    reviewed_by__isnull=False,
                    reviewed_at__isnull=False,
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"break-glass {self.pk}"

    @property
    def is_open(self) -> bool:
        return self.closed_at is None and self.open_until > timezone.now()
