import uuid

from django.conf import settings
from django.db import models


class Upload(models.Model):
    """A large file on its way in, part by part. Its parts lie sealed in the store until it is
    whole, or until it is given up."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.DO_NOTHING, db_constraint=False
    )
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    batch = models.ForeignKey("retrieval.ImportBatch", on_delete=models.PROTECT)
    sealed_name = models.BinaryField(help_text="The source file name, sealed like the parts.")
    size = models.PositiveBigIntegerField()
    received = models.PositiveBigIntegerField(default=0)
    image = models.UUIDField(null=True, help_text="What it became: asked twice, told twice.")
    is_new = models.BooleanField(default=False)
    started_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()

    class Meta:
        default_permissions = ()
        constraints = [
            models.CheckConstraint(
                name="upload_is_no_longer_than_announced",
                condition=models.Q(size__gte=1, received__lte=models.F("size")),
            )
        ]

    def __str__(self) -> str:
        return f"upload {self.pk}"


class IdempotentAnswer(models.Model):
    """What a program was told under its own key: the same request again gets the same answer."""

    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.DO_NOTHING, db_constraint=False
    )
    key = models.CharField(max_length=64, help_text="Keyed hash of the program's own key.")
    request = models.CharField(max_length=64, help_text="Keyed hash of what was asked.")
    answer = models.JSONField(null=True, help_text="Ids and codes; null while it is worked on.")
    asked_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint("account", "key", name="one_answer_per_idempotency_key")
        ]

    def __str__(self) -> str:
        return f"answer {self.pk}"
