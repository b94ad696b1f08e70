import uuid
from dataclasses import dataclass

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from pgvector.django import BitField

from retrieval.errors import Reason

REASONS = [(reason.value, reason.value.replace("_", " ").capitalize()) for reason in Reason]


class State(models.TextChoices):
    """Where an image is on its way. Only INDEXED ones are found; none is shown un-redacted."""

    RECEIVED = "received", "Received"
    REVIEW = "review", "In review"
    DEIDENTIFIED = "deidentified", "De-identified"
    INDEXED = "indexed", "Indexed"
    SPLIT = "split", "Split into frames"
    REJECTED = "rejected", "Rejected"
    QUARANTINED = "quarantined", "Quarantined"


SETTLED = (State.INDEXED, State.SPLIT, State.REVIEW, State.REJECTED, State.QUARANTINED)
"""States in which nothing more happens without a person. What follows a split are its frames'."""


@dataclass(frozen=True)
class TimeRange:
    """The part of a video that a frame stands for, in seconds from its first frame."""

    start_s: float
    end_s: float

    def __str__(self) -> str:
        return f"{_clock(self.start_s)}–{_clock(self.end_s)}"


def _clock(moment_s: float) -> str:
    """12.3 as 0:12, 3723 as 1:02:03."""
    minutes, seconds = divmod(int(moment_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


_SIDES = 4
_LARGEST_SIDE = 2**31 - 1


@dataclass(frozen=True)
class Region:
    """A rectangle in pixels of the upright image, from its upper left corner."""

    x: int
    y: int
    w: int
    h: int

    def __post_init__(self) -> None:
        sides = (self.x, self.y, self.w, self.h)
        if min(sides) < 0 or min(self.w, self.h) < 1 or max(sides) > _LARGEST_SIDE:
            raise ValueError("a region is x, y ≥ 0 and w, h ≥ 1, in pixels")

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.w},{self.h}"

    @classmethod
    def parse(cls, text: str) -> "Region":
        """From "x,y,w,h". Raises ValueError."""
        sides = text.split(",")
        if len(sides) != _SIDES:
            raise ValueError("a region is four whole numbers: x,y,w,h")
        return cls(*(int(side) for side in sides))


class Subject(models.Model):
    """The pseudonymous person a picture is of; the unit of erasure and of privacy budgets."""

    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    pseudonym = models.CharField(max_length=64)

    class Meta:
        constraints = [
            models.UniqueConstraint("collection", "pseudonym", name="one_subject_per_pseudonym")
        ]

    def __str__(self) -> str:
        return f"subject {self.pk}"


class ImportBatch(models.Model):
    """One import: what an administrator watches while it runs."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    started_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT)
    started_at = models.DateTimeField(auto_now_add=True)
    refused = models.PositiveIntegerField(
        default=0, help_text="Files turned away at the door: they never became an image here."
    )

    class Meta:
        ordering = ["-started_at"]
        verbose_name_plural = "import batches"

    def __str__(self) -> str:
        return f"import {self.pk}"


class Image(models.Model):
    """One picture. The row holds no pixels and, in the clear, nothing its file told.

    A received video is a row too, and never shown or found; its frames are pictures of their own.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    batch = models.ForeignKey(ImportBatch, on_delete=models.PROTECT, related_name="images")
    subject = models.ForeignKey(Subject, null=True, blank=True, on_delete=models.PROTECT)
    state = models.CharField(max_length=12, choices=State.choices, default=State.RECEIVED)
    reason = models.CharField(max_length=40, choices=REASONS, blank=True)
    media_type = models.CharField(max_length=40)
    content_key = models.BinaryField(
        help_text="Keyed hash (HMAC-SHA256) of the original: equal files meet, guesses do not."
    )
    wrapped_key = models.BinaryField(help_text="The image's data key, wrapped by the key file's.")
    sealed_name = models.BinaryField(help_text="The source file name, sealed with the data key.")
    width = models.PositiveIntegerField(null=True)
    height = models.PositiveIntegerField(null=True)
    faces = models.JSONField(
        default=list, help_text="Covered faces: box x, y, w, h in upright pixels, score, detector."
    )
    text = models.JSONField(
        default=list,
        help_text="Covered writing and codes: box, score, kind, detector; never what they say.",
    )
    render = models.PositiveIntegerField(
        default=0, help_text="How often its covers were drawn: what is released is one of these."
    )
    rules_digest = models.CharField(
        max_length=64, blank=True, help_text="Of the profile under which it was last looked at."
    )
    modality = models.CharField(
        max_length=16, blank=True, help_text="DICOM modality (0008,0060), such as CT; else empty."
    )
    taken_on = models.DateField(
        null=True, help_text="When a DICOM image was made, moved by its patient's days."
    )
    tags = ArrayField(
        models.CharField(max_length=64), default=list, help_text="What it shows, in words."
    )
    study = models.CharField(
        max_length=64, blank=True, help_text="Keyed hash of the DICOM study, in one collection."
    )
    perceptual_hash = BitField(
        length=64, null=True, help_text="Of de-identified pixels: near-duplicates differ little."
    )
    video = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="frames",
        help_text="The received video this is a frame of.",
    )
    starts_at_s = models.FloatField(null=True, help_text="Of what a frame stands for: the start.")
    ends_at_s = models.FloatField(null=True, help_text="Of what a frame stands for: the end.")
    frame_at_s = models.FloatField(null=True, help_text="When a frame is shown, in its video.")
    received_at = models.DateTimeField(auto_now_add=True)
    indexed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-received_at", "id"]
        constraints = [
            models.UniqueConstraint("collection", "content_key", name="one_image_per_content"),
            models.CheckConstraint(
                name="frames_and_no_others_have_times",
                condition=models.Q(
                    video__isnull=True,
                    starts_at_s__isnull=True,
                    ends_at_s__isnull=True,
                    frame_at_s__isnull=True,
                )
                | models.Q(
                    video__isnull=False,
                    starts_at_s__isnull=False,
                    ends_at_s__isnull=False,
                    frame_at_s__isnull=False,
                    starts_at_s__gte=0,
                    frame_at_s__gte=models.F("starts_at_s"),
                    ends_at_s__gte=models.F("frame_at_s"),
                ),
            ),
            models.CheckConstraint(
                name="no_frame_is_split",
                condition=models.Q(video__isnull=True) | ~models.Q(state="split"),
            ),
        ]
        indexes = [
            models.Index(fields=["collection", "state"]),
            models.Index(fields=["batch", "state"]),
            models.Index(fields=["collection", "modality"]),
            models.Index(fields=["collection", "taken_on"]),
            GinIndex(fields=["tags"], name="images_by_tag"),
        ]

    def __str__(self) -> str:
        return f"image {self.pk}"

    @property
    def time(self) -> TimeRange | None:
        """What part of its video a frame stands for; None for other pictures."""
        if self.starts_at_s is None or self.ends_at_s is None:
            return None
        return TimeRange(self.starts_at_s, self.ends_at_s)
