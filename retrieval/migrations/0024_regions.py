"""Parts of images: their vectors' boxes, and which collections keep them."""

from django.db import migrations, models

BOX = """
ALTER TABLE retrieval_embedding ADD COLUMN box integer[]
    CHECK (box IS NULL OR (region > 0 AND cardinality(box) = 4));
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0023_sweep_uploads")]

    operations = [
        migrations.RunSQL(BOX, "ALTER TABLE retrieval_embedding DROP COLUMN box"),
        migrations.AddField(
            "collection",
            "finds_parts",
            models.BooleanField(
                default=False,
                help_text="Find small things in large pictures: four parts of each image get vectors of their own. Encoding takes five times as long and the index five times the space.",
            ),
        ),
    ]
