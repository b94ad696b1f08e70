"""What a search groups by: studies, and hashes of what a picture shows. Curators write tags."""

import pgvector.django
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0014_second_factor")]

    operations = [
        migrations.AddField(
            "image",
            "study",
            models.CharField(
                blank=True,
                default="",
                help_text="Keyed hash of the DICOM study, in one collection.",
                max_length=64,
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            "image",
            "perceptual_hash",
            pgvector.django.BitField(
                help_text="Of de-identified pixels: near-duplicates differ little.",
                length=64,
                null=True,
            ),
        ),
        migrations.RunSQL("GRANT UPDATE (tags) ON retrieval_image TO cloister_web"),
    ]
