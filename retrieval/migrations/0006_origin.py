"""Whose picture a DICOM image is, and when and how it was made: written by the worker."""

from django.db import migrations, models

GRANTS = "GRANT INSERT ON retrieval_subject TO cloister_worker"


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0005_audit")]

    operations = [
        migrations.AddField(
            "image",
            "modality",
            models.CharField(
                blank=True,
                default="",
                help_text="DICOM modality (0008,0060), such as CT; else empty.",
                max_length=16,
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            "image",
            "taken_on",
            models.DateField(
                help_text="When a DICOM image was made, moved by its patient's days.", null=True
            ),
        ),
        migrations.RunSQL(GRANTS),
    ]
