"""Files that come in part by part, and requests that may come twice."""

import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

PROTECTION = """
ALTER TABLE retrieval_upload ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_upload FORCE ROW LEVEL SECURITY;
ALTER TABLE retrieval_idempotentanswer ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_idempotentanswer FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE ON retrieval_upload, retrieval_idempotentanswer TO cloister_web;
GRANT UPDATE (received, image, is_new) ON retrieval_upload TO cloister_web;
GRANT UPDATE (answer) ON retrieval_idempotentanswer TO cloister_web;
-- One's own, and only where one may still hand in.
CREATE POLICY hands_in ON retrieval_upload FOR ALL TO cloister_web
    USING (account_id = (SELECT cloister_context_id('actor'))
           AND collection_id = ANY ((SELECT cloister_granted('{curator,owner}'))::bigint[]));
CREATE POLICY own ON retrieval_idempotentanswer FOR ALL TO cloister_web
    USING (account_id = (SELECT cloister_context_id('actor')));
"""


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0019_index_upkeep"),
    ]

    operations = [
        migrations.CreateModel(
            name="IdempotentAnswer",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "key",
                    models.CharField(
                        help_text="Keyed hash of the program's own key.", max_length=64
                    ),
                ),
                (
                    "request",
                    models.CharField(help_text="Keyed hash of what was asked.", max_length=64),
                ),
                (
                    "answer",
                    models.JSONField(
                        help_text="Ids and codes; null while it is worked on.", null=True
                    ),
                ),
                ("asked_at", models.DateTimeField(auto_now_add=True)),
                (
                    "account",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        models.F("account"), models.F("key"), name="one_answer_per_idempotency_key"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Upload",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "sealed_name",
                    models.BinaryField(help_text="The source file name, sealed like the parts."),
                ),
                ("size", models.PositiveBigIntegerField()),
                ("received", models.PositiveBigIntegerField(default=0)),
                (
                    "image",
                    models.UUIDField(
                        help_text="What it became: asked twice, told twice.", null=True
                    ),
                ),
                ("is_new", models.BooleanField(default=False)),
                ("started_at", models.DateTimeField(auto_now_add=True)),
                ("expires_at", models.DateTimeField()),
                (
                    "account",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "batch",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.importbatch"
                    ),
                ),
                (
                    "collection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.collection"
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("received__lte", models.F("size")), ("size__gte", 1)),
                        name="upload_is_no_longer_than_announced",
                    )
                ],
            },
        ),
        migrations.RunSQL(PROTECTION),
    ]
