"""What every appliance starts with: the default privacy profile and the command line's user."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def add_first_rows(apps: Apps, _editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("retrieval", "PrivacyProfile").objects.create(name="photographs")
    # Nobody signs in as the operator: its password can never match.
    apps.get_model("retrieval", "User").objects.create(username="operator", password="!")  # noqa: S106


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0002_security")]

    operations = [migrations.RunPython(add_first_rows)]
