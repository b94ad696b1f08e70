from django.conf import settings
from django.db import models
from django.db.models import F, Q

from retrieval.models.user import User


class HoldReason(models.TextChoices):
    """What was done to the account. The last one closes the way through the glass alone."""

    PASSWORD = "password", "Its password was set by somebody else"
    SECOND_FACTOR = "second_factor", "Its second factor was reset by somebody else"
    RESPONSIBLE = "responsible", "Another person answers for this program"
    BREAK_GLASS = "break_glass", "Broke the glass without justification"


class Hold(models.Model):
    """An account that opens nothing until a second person says that it may.

    Placed by the web role with what it tells of; lifted by the database's own function only
    (migration 0027), which says who and when. Row-level security asks it for every grant.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="holds",
    )
    reason = models.CharField(max_length=13, choices=HoldReason.choices)
    held_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="holds_placed",
    )
    held_at = models.DateTimeField(auto_now_add=True)
    lifted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="holds_lifted",
    )
    lifted_at = models.DateTimeField(null=True)

    class Meta:
        # Those that wait for a second person come first.
        ordering = [F("lifted_at").desc(nulls_first=True), "-held_at"]
        default_permissions = ()
        permissions = [("lift_hold", "Can confirm accounts that somebody reset")]
        indexes = [
            models.Index(fields=["user"], name="hold_still_held", condition=Q(lifted_at=None))
        ]
        constraints = [
            models.CheckConstraint(
                name="hold_is_lifted_by_a_second_person",
                condition=Q(lifted_by__isnull=True, lifted_at__isnull=True)
                | (
                    Q(lifted_by__isnull=False, lifted_at__isnull=False)
                    & ~Q(lifted_by=F("user"))
                    # Who judged the glass to be broken without need says when it may be again.
                    & (Q(reason=HoldReason.BREAK_GLASS) | ~Q(lifted_by=F("held_by")))
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"hold {self.pk} on user {self.user_id}"


def holds_on(user: User) -> models.QuerySet[Hold]:
    """What keeps the account from everything, the newest first: see `retrieval.holds`."""
    return Hold.objects.filter(user=user, lifted_at=None).exclude(reason=HoldReason.BREAK_GLASS)
