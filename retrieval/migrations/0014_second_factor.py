"""Authenticator apps and recovery codes. A worker's role reads neither."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

GRANTS = """
GRANT SELECT, INSERT, DELETE ON retrieval_authenticator, retrieval_recoverycode TO cloister_web;
GRANT UPDATE (last_step, failures, failed_at) ON retrieval_authenticator TO cloister_web;
"""


def key() -> "models.BigAutoField[int, int]":
    return models.BigAutoField(
        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
    )


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0013_budget_guard")]

    operations = [
        migrations.CreateModel(
            "Authenticator",
            [
                ("id", key()),
                ("sealed_key", models.BinaryField()),
                (
                    "last_step",
                    models.BigIntegerField(
                        help_text="The time step of the last code taken: no code is taken twice."
                    ),
                ),
                (
                    "failures",
                    models.PositiveIntegerField(default=0, help_text="Wrong codes in a row."),
                ),
                ("failed_at", models.DateTimeField(null=True)),
                ("enrolled_at", models.DateTimeField(auto_now_add=True)),
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            "RecoveryCode",
            [
                ("id", key()),
                ("code_hash", models.CharField(max_length=64, unique=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={"default_permissions": ()},
        ),
        migrations.RunSQL(GRANTS),
    ]
