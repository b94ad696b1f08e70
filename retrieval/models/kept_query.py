import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models


class KeptQuery(models.Model):
    """What was asked, beside the log's entry that only has a keyed hash of it.

    Kept where a searched collection's policy wants it, under a key of its own, until
    `delete_after`. Read by an officer with the right to, on the log.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    entry = models.BigIntegerField(unique=True, help_text="The log's entry of that search.")
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.DO_NOTHING, db_constraint=False
    )
    collections = ArrayField(
        models.BigIntegerField(), default=list, help_text="Those that were searched."
    )
    wrapped_key = models.BinaryField()
    sealed_words = models.BinaryField()
    sealed_image = models.BinaryField()
    kept_at = models.DateTimeField(auto_now_add=True)
    delete_after = models.DateTimeField()

    class Meta:
        ordering = ["-entry"]
        default_permissions = ("view",)
        verbose_name = "kept query"
        verbose_name_plural = "kept queries"
        indexes = [models.Index(fields=["delete_after"])]

    def __str__(self) -> str:
        return f"query of entry {self.entry}"
