from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q


class BoxKind(models.TextChoices):
    FACE = "face", "Face"
    TEXT = "text", "Writing"
    CODE = "code", "Code"


class Source(models.TextChoices):
    """Who proposed a box. What the last look after covering still saw is shown, not covered."""

    DETECTOR = "detector", "Detector"
    REVIEWER = "reviewer", "Reviewer"
    LAST_LOOK = "last_look", "Last look"


class RemovalReason(models.TextChoices):
    """Why a reviewer takes a cover off. What is rightly found and may stay is ALLOWED_TEXT."""

    NOT_A_FACE = "not_a_face", "Not a face"
    NOT_TEXT = "not_text", "Not writing"
    NOT_A_CODE = "not_a_code", "Not a code"
    ALLOWED_TEXT = "allowed_text", "Writing that may stay"
    OTHER = "other", "Other"


class ReviewBox(models.Model):
    """One box of an image that is or was in review. A removed one stays, with its reason."""

    image = models.ForeignKey("retrieval.Image", on_delete=models.CASCADE, related_name="boxes")
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    kind = models.CharField(max_length=4, choices=BoxKind.choices)
    box = ArrayField(
        models.PositiveIntegerField(), size=4, help_text="x, y, w, h in pixels, upright."
    )
    corners = ArrayField(
        models.IntegerField(),
        size=8,
        null=True,
        help_text="x, y of the four corners of slanted writing, in order around it.",
    )
    score = models.FloatField(null=True)
    detector = models.CharField(max_length=100, blank=True)
    source = models.CharField(max_length=9, choices=Source.choices)
    render = models.PositiveIntegerField(help_text="The render it was proposed or drawn on.")
    removed_reason = models.CharField(max_length=12, choices=RemovalReason.choices, blank=True)
    decided_by = models.ForeignKey(
        "retrieval.User", null=True, on_delete=models.DO_NOTHING, db_constraint=False
    )
    decided_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ()
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(name="review_box_has_four_sides", condition=Q(box__len=4)),
            models.CheckConstraint(
                name="review_box_source_is_known", condition=Q(source__in=Source.values)
            ),
            models.CheckConstraint(
                name="review_box_is_removed_for_a_reason",
                condition=Q(removed_reason="")
                | Q(removed_reason__in=RemovalReason.values, decided_by__isnull=False),
            ),
            models.CheckConstraint(
                name="review_box_is_drawn_by_somebody",
                condition=~Q(source=Source.REVIEWER) | Q(decided_by__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"box {self.pk} of image {self.image_id}"
