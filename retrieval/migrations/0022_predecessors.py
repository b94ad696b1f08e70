"""Which token each one was rotated from: what a leaked one became ends with it."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0021_granted_by_index")]

    operations = [
        migrations.AddField(
            "apitoken",
            "predecessor",
            models.ForeignKey(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="successors",
                to="retrieval.apitoken",
            ),
        ),
    ]
