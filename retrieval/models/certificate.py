import uuid

from django.db import models


class Certificate(models.Model):
    """What is claimed of one private training, as it was signed. Never changed, never deleted."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.PROTECT)
    reservation = models.OneToOneField(
        "retrieval.Reservation", on_delete=models.PROTECT, related_name="certificate"
    )
    encoder = models.ForeignKey(
        "retrieval.EncoderVersion", on_delete=models.PROTECT, related_name="certificates"
    )
    document = models.TextField(help_text="JSON: the certificate, its signature, its key.")
    issued_at = models.DateTimeField()
    event = models.BigIntegerField(help_text="Its entry in the audit log.")

    class Meta:
        default_permissions = ("view",)
        ordering = ["-issued_at"]

    def __str__(self) -> str:
        return f"certificate {self.pk}"
