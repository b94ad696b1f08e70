"""What a search may filter by: tags, and indexes for modality and date."""

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0011_break_glass"),
    ]

    operations = [
        migrations.AddField(
            model_name="image",
            name="tags",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=64),
                default=list,
                help_text="What it shows, in words.",
                size=None,
            ),
        ),
        migrations.AddIndex(
            model_name="image",
            index=models.Index(
                fields=["collection", "modality"], name="retrieval_i_collect_a9d494_idx"
            ),
        ),
        migrations.AddIndex(
            model_name="image",
            index=models.Index(
                fields=["collection", "taken_on"], name="retrieval_i_collect_0f014b_idx"
            ),
        ),
        migrations.AddIndex(
            model_name="image",
            index=django.contrib.postgres.indexes.GinIndex(fields=["tags"], name="images_by_tag"),
        ),
    ]
