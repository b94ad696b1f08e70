import hashlib
import json
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from retrieval.models.grant import Purpose


class Cover(models.TextChoices):
    SOLID = "solid", "Solid"
    MOSAIC = "mosaic", "Mosaic (at most 6×6 cells)"


class Shape(models.TextChoices):
    BOX = "box", "Box"
    ELLIPSE = "ellipse", "Ellipse"


def check_text_allowed(entry: str) -> None:
    """A number alone may be a date, an age or part of an identifier: it never stays."""
    if not any(letter.isalpha() for letter in entry):
        raise ValidationError("An allowed text must hold a letter.")
    if "##" in "".join(entry.split()):
        raise ValidationError("An allowed text must not hold two numbers in a row.")


class PrivacyProfile(models.Model):
    """How a collection's pictures are de-identified.

    The bounds are the floor: a profile can be stricter, never weaker. They stand in the database
    as constraints, so that no form, shell or import gets below them.
    """

    name = models.CharField(max_length=100, unique=True)
    cover = models.CharField(max_length=10, choices=Cover.choices, default=Cover.SOLID)
    shape = models.CharField(
        max_length=10,
        choices=Shape.choices,
        default=Shape.BOX,
        help_text="An ellipse leaves more of the picture; it reaches as far as the box to its sides"
        " and holds all of the detected face.",
    )
    mosaic_cells = models.PositiveSmallIntegerField(
        default=6,
        validators=[MinValueValidator(1), MaxValueValidator(6)],
        help_text="Cells per side of a mosaic, whatever the size of the face.",
    )
    margin = models.FloatField(
        default=0.25,
        validators=[MinValueValidator(0.1), MaxValueValidator(2.0)],
        help_text="How far a cover reaches beyond the face, as a fraction of its size.",
    )
    detection_threshold = models.FloatField(
        default=0.2,
        validators=[MinValueValidator(0.05), MaxValueValidator(0.3)],
        help_text="Score from which a detection counts as a face. Lower covers more: more of the"
        " faces that are hard to see, and more that is none.",
    )

    cover_text = models.BooleanField(
        default=False,
        help_text="Cover writing, read or not. Without it, DICOM images that may carry some"
        " wait for a person.",
    )
    cover_codes = models.BooleanField(
        default=False, help_text="Cover bar codes and matrix codes (QR, Data Matrix, …)."
    )
    text_allowed = ArrayField(
        models.CharField(max_length=24, validators=[check_text_allowed]),
        default=list,
        blank=True,
        size=32,
        help_text="Writing that stays, such as L or # cm, separated by commas. # stands for a"
        " number of at most three digits; each entry holds a letter.",
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="profile_allows_at_most_32_texts",
                condition=models.Q(text_allowed__len__lte=32),
            ),
            models.CheckConstraint(
                name="profile_mosaic_is_coarse",
                condition=models.Q(mosaic_cells__gte=1, mosaic_cells__lte=6),
            ),
            models.CheckConstraint(
                name="profile_margin_at_least_a_tenth",
                condition=models.Q(margin__gte=0.1, margin__lte=2.0),
            ),
            models.CheckConstraint(
                name="profile_threshold_at_most_0_3",
                condition=models.Q(detection_threshold__gte=0.05, detection_threshold__lte=0.3),
            ),
            models.CheckConstraint(
                name="profile_cover_is_irreversible", condition=models.Q(cover__in=Cover.values)
            ),
            models.CheckConstraint(
                name="profile_shape_holds_the_face", condition=models.Q(shape__in=Shape.values)
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def rules_digest(self) -> str:
        """Hex SHA-256 of all that decides what is covered and how: of every field but the name."""
        fields = (field.attname for field in self._meta.concrete_fields)
        rules = {name: getattr(self, name) for name in fields if name not in ("id", "name")}
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def default_purposes() -> list[str]:
    return [Purpose.TREATMENT, Purpose.RESEARCH, Purpose.OPERATIONS, Purpose.ADMINISTRATION]


class Collection(models.Model):
    """Pictures under one policy. Its embeddings are one partition, made with the row."""

    name = models.CharField(max_length=100, unique=True)
    description = models.TextField(blank=True)
    profile = models.ForeignKey(PrivacyProfile, on_delete=models.PROTECT)
    purposes = ArrayField(
        models.CharField(max_length=12, choices=Purpose.choices),
        default=default_purposes,
        help_text="Purposes of use that may be granted here (HL7 v3 PurposeOfUse).",
    )
    minimum_cohort = models.PositiveSmallIntegerField(
        default=0,
        help_text="Counts that fewer distinct subjects than this stand behind are withheld."
        " 0 withholds none.",
    )
    keep_queries_days = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3650)],
        help_text="Keep what was searched here, sealed and apart from the log, for so many days."
        " Empty: the log's keyed hash is all there is.",
    )
    finds_parts = models.BooleanField(
        default=True,
        help_text="Find small things in large pictures: four parts of each image that is large"
        " enough (373 pixels a side for the embedded encoder), and what an added detector of"
        " objects sees, get vectors of their own. Encoding these takes five to nine times as long,"
        " and the index as much more space. Images that are there already get theirs, or lose"
        " them, by `encoder fill`; `encoder list` tells how many have them.",
    )
    has_reports = models.BooleanField(
        default=False,
        editable=False,
        help_text="A report came in here once: without any, no search looks for one.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        # The partition, its images and their stored objects go together, through erasure only.
        raise models.ProtectedError("a collection is erased, not deleted", {self})
