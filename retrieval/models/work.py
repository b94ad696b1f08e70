from django.db import models


class Stage(models.TextChoices):
    """What is to be done to an image next. Each stage is one Celery task of the same meaning."""

    DEIDENTIFY = "deidentify", "De-identify"
    COVER = "cover", "Cover as reviewed"
    ENCODE = "encode", "Encode"
    REPORT = "report", "Clean and encode its report"


class Work(models.Model):
    """The outbox: work as a row. The broker carries nudges only and may be wiped at any time."""

    image = models.ForeignKey("retrieval.Image", on_delete=models.CASCADE)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.CASCADE)
    stage = models.CharField(max_length=12, choices=Stage.choices)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="Counted before the work.")
    lease_until = models.DateTimeField(null=True)
    fencing_token = models.PositiveIntegerField(default=0)
    nudged_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("image", "stage", name="one_piece_of_work_per_stage")
        ]
        indexes = [models.Index(fields=["nudged_at"])]

    def __str__(self) -> str:
        return f"{self.stage} of image {self.image_id}"
