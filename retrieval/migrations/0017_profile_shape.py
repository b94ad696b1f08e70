"""The shape of covers, and which rules an image was looked at under."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0016_tokens"),
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
        migrations.AlterField(
            model_name="privacyprofile",
            name="detection_threshold",
            field=models.FloatField(
                default=0.2,
                help_text="Score from which a detection counts as a face. Lower covers more: more of the faces that are hard to see, and more that is none.",
                validators=[
                    django.core.validators.MinValueValidator(0.05),
                    django.core.validators.MaxValueValidator(0.3),
                ],
            ),
        ),
    ]
