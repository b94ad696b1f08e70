"""Sessions that know whose they are, whose directory an account is of, and who guessed passwords.

A worker's role reads none of it.
"""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

GRANTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval_session, axes_accessattempt TO cloister_web;
-- Deleting an attempt deletes what hangs on it.
GRANT SELECT, DELETE ON axes_accessattemptexpiration TO cloister_web;
-- Sessions are kept in our own table.
REVOKE ALL ON django_session FROM cloister_web;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0017_profile_shape"),
        ("axes", "0010_accessattemptexpiration"),
    ]

    operations = [
        migrations.CreateModel(
            "Session",
            [
                ("session_data", models.TextField(verbose_name="session data")),
                ("expire_date", models.DateTimeField(db_index=True, verbose_name="expire date")),
                (
                    "session_key",
                    models.CharField(max_length=64, primary_key=True, serialize=False),
                ),
                ("started_at", models.DateTimeField()),
                ("seen_at", models.DateTimeField()),
                (
                    "user",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={"default_permissions": ()},
        ),
        migrations.AddField(
            "user",
            "directory",
            models.CharField(
                blank=True,
                choices=[
                    ("", "This appliance"),
                    ("ldap", "LDAP directory"),
                    ("oidc", "OpenID provider"),
                ],
                default="",
                editable=False,
                max_length=4,
            ),
        ),
        migrations.AddField(
            "user",
            "directory_id",
            models.CharField(
                blank=True,
                default="",
                editable=False,
                help_text="Who it is there, for as long as the account exists: names are given anew.",
                max_length=255,
            ),
        ),
        migrations.AddConstraint(
            "user",
            models.UniqueConstraint(
                condition=models.Q(("directory", ""), _negated=True),
                fields=("directory", "directory_id"),
                name="one_account_per_entry_of_a_directory",
            ),
        ),
        migrations.RunSQL(GRANTS),
    ]
