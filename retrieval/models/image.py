import uuid

from django.conf import settings
from django.db import models

from retrieval.errors import Reason

REASONS = [(reason.value, reason.value.replace("_", " ").capitalize()) for reason in Reason]


class State(models.TextChoices):
    """Where an image is on its way. Only INDEXED ones are found; none is shown un-redacted."""

    RECEIVED = "received", "Received"
    REVIEW = "review", "In review"
    DEIDENTIFIED = "deidentified", "De-identified"
    INDEXED = "indexed", "Indexed"
    REJECTED = "rejected", "Rejected"
    QUARANTINED = "quarantined", "Quarantined"


SETTLED = (State.INDEXED, State.REVIEW, State.REJECTED, State.QUARANTINED)
"""States in which nothing more happens without a person."""


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
    """One picture. The row holds no pixels and, in the clear, nothing its file told."""

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
    modality = models.CharField(
        max_length=16, blank=True, help_text="DICOM modality (0008,0060), such as CT; else empty."
    )
    taken_on = models.DateField(
        null=True, help_text="When a DICOM image was made, moved by its patient's days."
    )
    received_at = models.DateTimeField(auto_now_add=True)
    indexed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-received_at", "id"]
        constraints = [
            models.UniqueConstraint("collection", "content_key", name="one_image_per_content")
        ]
        indexes = [
            models.Index(fields=["collection", "state"]),
            models.Index(fields=["batch", "state"]),
        ]

    def __str__(self) -> str:
        return f"image {self.pk}"
