from django.contrib.postgres.fields import ArrayField
from django.db import models
from pgvector.django import HalfVectorField


class Reads(models.TextChoices):
    """What an encoder's stored vectors are of. One of each answers queries."""

    PICTURES = "pictures", "Pictures"
    REPORTS = "reports", "Reports"


class EncoderVersion(models.Model):
    """A model is a row: what it is made of, and whether it answers queries."""

    name = models.CharField(max_length=100, unique=True)
    reads = models.CharField(max_length=8, choices=Reads.choices, default=Reads.PICTURES)
    digest = models.CharField(max_length=64, help_text="SHA-256 over all weights, hex.")
    dimensions = models.PositiveIntegerField()
    licence = models.CharField(max_length=200)
    source = models.CharField(
        max_length=500, blank=True, help_text="Folder of the weights; empty: ships with Cloister."
    )
    base = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        help_text="The encoder it was trained from, on a collection's images.",
    )
    epsilon = models.FloatField(null=True, blank=True)
    delta = models.FloatField(null=True, blank=True)
    live = models.BooleanField(default=False)
    added_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(
        null=True, help_text="When its vectors were dropped; the row stays for the record."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["reads"], condition=models.Q(live=True), name="one_live_encoder_of_each"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def learned_from_images(self) -> bool:
        """It was trained on pictures of the appliance's own and must not tell of them."""
        return self.base_id is not None or self.epsilon is not None


class Embedding(models.Model):
    """One vector per image, encoder and region. LIST-partitioned by collection.

    The table, its partitions, their HNSW indexes and row-level security are made in SQL
    (migration 0002); `retrieval.index` is its only reader and writer.
    """

    pk = models.CompositePrimaryKey("collection_id", "image_id", "encoder_id", "region")
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.DO_NOTHING)
    image = models.ForeignKey("retrieval.Image", on_delete=models.DO_NOTHING)
    encoder = models.ForeignKey(EncoderVersion, on_delete=models.DO_NOTHING)
    region = models.PositiveSmallIntegerField(
        default=0, help_text="0 is the whole image; of a report, which passage."
    )
    box = ArrayField(
        models.IntegerField(),
        null=True,
        help_text="A region's x, y, width and height in pixels of the upright image.",
    )
    parts_from = models.TextField(
        default="",
        help_text="Beside a whole image's vector: how its parts were chosen. Empty: nobody looked.",
    )
    vector = HalfVectorField()

    class Meta:
        managed = False
        db_table = "retrieval_embedding"

    def __str__(self) -> str:
        return f"embedding of image {self.image_id}"


class IndexPart(models.Model):
    """How much one collection's partition holds of one encoder, and how well its index does.

    Counted by triggers (migration 0030), so that no search has to count.
    """

    pk = models.CompositePrimaryKey("collection_id", "encoder_id")
    collection = models.ForeignKey("retrieval.Collection", on_delete=models.CASCADE)
    encoder = models.ForeignKey(EncoderVersion, on_delete=models.CASCADE)
    rows = models.BigIntegerField(help_text="Vectors, of regions too.")
    images = models.BigIntegerField(help_text="Vectors of whole images.")
    removed = models.BigIntegerField(
        default=0, help_text="Deleted or replaced since the index was built."
    )
    ef_search = models.PositiveSmallIntegerField(default=100)
    recall = models.FloatField(null=True, help_text="Recall@10 against an exact scan, on a sample.")
    checked_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"index of collection {self.collection_id}, encoder {self.encoder_id}"
