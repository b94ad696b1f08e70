import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.expressions import CombinedExpression, Value
from django.utils import timezone

MAX_EPSILON = 100
"""Beyond it a budget would be none: at ε = 100 an attacker's odds may change e¹⁰⁰-fold."""


def below_one_over(units: str) -> CombinedExpression:
    """1/N: with a larger δ, publishing one unit in the clear would count as private."""
    return Value(1.0, output_field=models.FloatField()) / F(units)


class Unit(models.TextChoices):
    """Whose presence the training hides: all images of a person, or one image."""

    SUBJECT = "subject", "Subject"
    IMAGE = "image", "Image"


class Budget(models.Model):
    """What may be learned of a collection, ever. Written by functions of the database only
    (migration budget): setting and lowering by one person, raising by two."""

    collection = models.OneToOneField("retrieval.Collection", on_delete=models.PROTECT)
    max_epsilon = models.FloatField(help_text="The most that all trainings together may spend.")
    delta = models.FloatField(help_text="At which ε is counted; less than one over the units.")
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        default_permissions = ("view", "change")
        ordering = ["collection__name"]
        constraints = [
            # NaN and infinity are greater than all numbers to PostgreSQL: bounds keep them out.
            models.CheckConstraint(
                name="budget_epsilon_is_bounded",
                condition=Q(max_epsilon__gte=0, max_epsilon__lte=MAX_EPSILON),
            ),
            models.CheckConstraint(
                name="budget_delta_is_a_probability", condition=Q(delta__gt=0, delta__lt=1)
            ),
        ]

    def __str__(self) -> str:
        return f"budget of collection {self.collection_id}"


class Outcome(models.TextChoices):
    OPEN = "open", "Open"
    APPROVED = "approved", "Approved"
    DECLINED = "declined", "Declined"


class BudgetProposal(models.Model):
    """A raise, asked for by one person and decided by another."""

    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    max_epsilon = models.FloatField()
    delta = models.FloatField()
    from_max_epsilon = models.FloatField(help_text="The budget when it was asked for.")
    from_delta = models.FloatField()
    proposed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="raises_proposed"
    )
    proposed_at = models.DateTimeField(default=timezone.now)
    outcome = models.CharField(max_length=8, choices=Outcome.choices, default=Outcome.OPEN)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.PROTECT,
        related_name="raises_decided",
    )
    decided_at = models.DateTimeField(null=True)
    may_approve = ArrayField(
        models.BigIntegerField(),
        default=list,
        help_text="Who else held the right when it was asked for. Written by the database.",
    )

    class Meta:
        default_permissions = ()
        ordering = ["-proposed_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["collection"], condition=Q(outcome="open"), name="one_open_raise"
            ),
            models.CheckConstraint(
                name="raise_is_approved_by_another",
                condition=~Q(outcome="approved") | ~Q(decided_by=F("proposed_by")),
            ),
            models.CheckConstraint(
                name="raise_is_decided_by_somebody",
                condition=Q(outcome="open", decided_by__isnull=True, decided_at__isnull=True)
                | Q(
                    outcome__in=["approved", "declined"],
                    decided_by__isnull=False,
                    decided_at__isnull=False,
                ),
            ),
            models.CheckConstraint(
                name="raise_epsilon_is_bounded",
                condition=Q(max_epsilon__gte=0, max_epsilon__lte=MAX_EPSILON),
            ),
            models.CheckConstraint(
                name="raise_delta_is_a_probability", condition=Q(delta__gt=0, delta__lt=1)
            ),
        ]

    def __str__(self) -> str:
        return f"proposal {self.pk}"


class SubjectGroup(models.Model):
    """Subjects that are trained on apart from all others, and so spend apart from them."""

    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    label = models.CharField(max_length=64)

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint("collection", "label", name="one_subject_group_per_label")
        ]

    def __str__(self) -> str:
        return f"subject group {self.pk}"


class SubjectGroupMember(models.Model):
    """A subject is in one group at most, for good: that is what makes groups disjoint."""

    subject = models.OneToOneField(
        "retrieval.Subject", primary_key=True, on_delete=models.CASCADE, related_name="+"
    )
    group = models.ForeignKey(SubjectGroup, on_delete=models.PROTECT, related_name="members")
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"subject {self.subject_id} in group {self.group_id}"


class Charge(models.TextChoices):
    """What a reservation counts for."""

    OPEN = "open", "Open: the whole plan is charged"
    SETTLED = "settled", "Settled: what ran is charged"
    VOID = "void", "Void: the whole plan stays charged"


class Reservation(models.Model):
    """One training's entry in the ledger, made before its first gradient.

    The web role only reads it; a worker adds it and closes it once. Nobody deletes one.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    subject_group = models.ForeignKey(SubjectGroup, null=True, on_delete=models.PROTECT)
    state = models.CharField(max_length=7, choices=Charge.choices, default=Charge.OPEN)
    unit = models.CharField(max_length=7, choices=Unit.choices)
    units = models.PositiveIntegerField(help_text="How many were in the data.")
    plan = models.JSONField(help_text="Mechanisms: noise multiplier, sample rate, steps.")
    spent = models.JSONField(null=True, help_text="The mechanisms that ran, once settled.")
    delta = models.FloatField(help_text="Of this training alone.")
    epsilon = models.FloatField(help_text="Of what this training is charged, at its delta.")
    budget_delta = models.FloatField()
    total_epsilon = models.FloatField(
        help_text="Of all trainings, this one reserved, at the budget's delta."
    )
    closed_total_epsilon = models.FloatField(null=True, help_text="The same, once it was closed.")
    reserved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    reserved_at = models.DateTimeField(default=timezone.now)
    resumed_at = models.DateTimeField(
        null=True, help_text="When an interrupted training went on: once at most."
    )
    steps_claimed = models.PositiveIntegerField(
        default=0, help_text="Steps that may have touched the data: noted before they are taken."
    )
    closed_at = models.DateTimeField(null=True)
    reserved_event = models.BigIntegerField(help_text="Its entry in the audit log.")
    closed_event = models.BigIntegerField(null=True)

    class Meta:
        default_permissions = ()
        ordering = ["-reserved_at"]
        constraints = [
            models.CheckConstraint(
                name="reservation_delta_below_one_over_n",
                condition=Q(units__gt=0, delta__gt=0, delta__lt=below_one_over("units")),
            ),
            models.CheckConstraint(
                name="reservation_budget_delta_below_one_over_n",
                condition=Q(budget_delta__gte=F("delta"), budget_delta__lt=below_one_over("units")),
            ),
            models.CheckConstraint(
                name="reservation_closed_once",
                condition=Q(state="open", spent__isnull=True, closed_at__isnull=True)
                | Q(state="void", spent__isnull=True, closed_at__isnull=False)
                | Q(state="settled", spent__isnull=False, closed_at__isnull=False),
            ),
            models.CheckConstraint(
                name="reservation_epsilon_is_a_number",
                condition=Q(epsilon__gte=0, epsilon__lte=MAX_EPSILON)
                & Q(total_epsilon__gte=0, total_epsilon__lte=MAX_EPSILON),
            ),
        ]

    def __str__(self) -> str:
        return f"reservation {self.pk}"
