"""Kinds of events are named by a function: a further one is no migration. And nobody who waits
for a page waits for a lock for ever: the web role's limit leaves time to answer within 5 s."""

from django.db import migrations, models

from retrieval.models import audit


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0004_budget")]

    operations = [
        migrations.AlterField(
            model_name="auditevent",
            name="kind",
            field=models.CharField(choices=audit.kinds, max_length=40),
        ),
        migrations.RunSQL("ALTER ROLE cloister_web SET lock_timeout = '2s'"),
    ]
