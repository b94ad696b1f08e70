from django.db import models
from pgvector.django import HalfVectorField


class TagWord(models.Model):
    """A word that a collection's images are tagged with where the encoder finds that it fits.

    What it says may be sensitive: logs and pages of others name it by id or keyed hash.
    """

    collection = models.ForeignKey("retrieval.Collection", on_delete=models.CASCADE)
    word = models.CharField(max_length=64)

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint("collection", "word", name="one_row_per_tag_word")]

    def __str__(self) -> str:
        return f"tag word {self.pk}"


class TagThreshold(models.Model):
    """From where on an image bears a tag word in one encoder's space. Made in SQL (migration 0026).

    Thresholds of several encoders stand side by side, so that a switch of encoders switches tags.
    """

    word = models.ForeignKey(TagWord, on_delete=models.DO_NOTHING)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.DO_NOTHING)
    encoder = models.ForeignKey("retrieval.EncoderVersion", on_delete=models.DO_NOTHING)
    direction = HalfVectorField(help_text="What the score is the inner product with.")
    least_score = models.FloatField()
    rows = models.BigIntegerField(help_text="Vectors that lay in the index when it was chosen.")

    class Meta:
        managed = False
        db_table = "retrieval_tagthreshold"

    def __str__(self) -> str:
        return f"threshold {self.pk}"


class AutomaticTag(models.Model):
    """That an image's vector passes a threshold. Tags set by people stand in the image's row.

    `retrieval.index` writes it with the vector, for whole images.
    """

    pk = models.CompositePrimaryKey("threshold_id", "image_id")
    threshold = models.ForeignKey(TagThreshold, on_delete=models.DO_NOTHING)
    image = models.ForeignKey("retrieval.Image", on_delete=models.DO_NOTHING)
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.DO_NOTHING)

    class Meta:
        managed = False
        db_table = "retrieval_automatictag"

    def __str__(self) -> str:
        return f"tag of image {self.image_id}"
