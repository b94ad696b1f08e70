"""How an image's parts were chosen: so that it can be told which images have yet to get theirs."""

from django.db import migrations, models

PARTS_FROM = """
ALTER TABLE retrieval_embedding ADD COLUMN parts_from text NOT NULL DEFAULT ''
    CHECK (region = 0 OR parts_from = '');
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0024_regions")]

    operations = [
        migrations.RunSQL(PARTS_FROM, "ALTER TABLE retrieval_embedding DROP COLUMN parts_from"),
        migrations.AlterField(
            "collection",
            "finds_parts",
            models.BooleanField(
                default=False,
                help_text="Find small things in large pictures: four parts of each image, and what an added detector of objects sees in it, get vectors of their own. Encoding takes five to nine times as long, and the index as much more space. Images that are there already get theirs, or lose them, by `encoder fill`; `encoder list` tells how many have them.",
            ),
        ),
    ]
