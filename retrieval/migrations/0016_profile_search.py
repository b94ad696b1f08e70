"""The shape of covers, how thorough faces are looked for, and which rules an image was seen under."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0015_studies_and_duplicates"),
    ]

    operations = [
        migrations.AddField(
            model_name="image",
            name="rules_digest",
            field=models.CharField(
                blank=True,
                help_text="Of the profile under which it was last looked at.",
                max_length=64,
            ),
        ),
        migrations.AddField(
            model_name="privacyprofile",
            name="search",
            field=models.CharField(
                choices=[("standard", "Standard"), ("thorough", "Thorough")],
                default="standard",
                help_text="How many views of a picture are looked at: upright, mirrored, turned, enlarged. Thorough takes more, and more time.",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="privacyprofile",
            name="shape",
            field=models.CharField(
                choices=[("box", "Box"), ("ellipse", "Ellipse")],
                default="box",
                help_text="An ellipse leaves more of the picture; it reaches as far as the box to its sides and holds all of the detected face.",
                max_length=10,
            ),
        ),
        migrations.AddConstraint(
            model_name="privacyprofile",
            constraint=models.CheckConstraint(
                condition=models.Q(("shape__in", ["box", "ellipse"])),
                name="profile_shape_holds_the_face",
            ),
        ),
        migrations.AddConstraint(
            model_name="privacyprofile",
            constraint=models.CheckConstraint(
                condition=models.Q(("search__in", ["standard", "thorough"])),
                name="profile_search_is_known",
            ),
        ),
    ]
