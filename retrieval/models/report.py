from django.db import models


class Report(models.Model):
    """That a picture came with a text, and what was made of it. The text lies sealed in the store.

    Shown to nobody: what is left of it after cleaning has vectors, by which the picture is found.
    """

    image = models.OneToOneField("retrieval.Image", primary_key=True, on_delete=models.CASCADE)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.CASCADE)
    batch = models.ForeignKey("retrieval.ImportBatch", on_delete=models.PROTECT)
    content_key = models.BinaryField(
        help_text="Keyed hash (HMAC-SHA256) of the text: the same one again changes nothing."
    )
    rules_digest = models.CharField(
        max_length=64, blank=True, help_text="Of the rules it was cleaned by; empty until it was."
    )
    passages = models.PositiveSmallIntegerField(
        default=0, help_text="Vectors it has of each encoder; none where cleaning left no word."
    )

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"report of image {self.image_id}"
