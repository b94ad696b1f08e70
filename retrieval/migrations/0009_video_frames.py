"""A received video, and its frames as images: made by the worker."""

import django.db.models.deletion
from django.db import migrations, models

# A worker makes frames of what was received, and receives nothing itself.
GRANTS = """
GRANT INSERT ON retrieval_image TO cloister_worker;
CREATE POLICY makes_frames_only ON retrieval_image AS RESTRICTIVE FOR INSERT TO cloister_worker
    WITH CHECK (video_id IS NOT NULL);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0008_review"),
    ]

    operations = [
        migrations.AddField(
            model_name="image",
            name="ends_at_s",
            field=models.FloatField(help_text="Of what a frame stands for: the end.", null=True),
        ),
        migrations.AddField(
            model_name="image",
            name="frame_at_s",
            field=models.FloatField(help_text="When a frame is shown, in its video.", null=True),
        ),
        migrations.AddField(
            model_name="image",
            name="starts_at_s",
            field=models.FloatField(help_text="Of what a frame stands for: the start.", null=True),
        ),
        migrations.AddField(
            model_name="image",
            name="video",
            field=models.ForeignKey(
                blank=True,
                help_text="The received video this is a frame of.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="frames",
                to="retrieval.image",
            ),
        ),
        migrations.AlterField(
            model_name="image",
            name="reason",
            field=models.CharField(
                blank=True,
                choices=[
                    ("empty_file", "Empty file"),
                    ("not_an_image", "Not an image"),
                    ("file_too_large", "File too large"),
                    ("unreadable_file", "Unreadable file"),
                    ("unsafe_name", "Unsafe name"),
                    ("name_too_long", "Name too long"),
                    ("archive_too_large", "Archive too large"),
                    ("archive_damaged", "Archive damaged"),
                    ("truncated", "Truncated"),
                    ("too_small", "Too small"),
                    ("too_many_pixels", "Too many pixels"),
                    ("video_too_long", "Video too long"),
                    ("too_many_frames", "Too many frames"),
                    ("no_pixels", "No pixels"),
                    ("decode_failed", "Decode failed"),
                    ("decode_memory", "Decode memory"),
                    ("decode_timeout", "Decode timeout"),
                    ("rejected_by_reviewer", "Rejected by reviewer"),
                    ("face_still_found", "Face still found"),
                    ("text_still_found", "Text still found"),
                    ("code_still_found", "Code still found"),
                    ("detector_failed", "Detector failed"),
                    ("may_carry_burned_in_text", "May carry burned in text"),
                    ("review_unfinished", "Review unfinished"),
                    ("three_strikes", "Three strikes"),
                ],
                max_length=40,
            ),
        ),
        migrations.AlterField(
            model_name="image",
            name="state",
            field=models.CharField(
                choices=[
                    ("received", "Received"),
                    ("review", "In review"),
                    ("deidentified", "De-identified"),
                    ("indexed", "Indexed"),
                    ("split", "Split into frames"),
                    ("rejected", "Rejected"),
                    ("quarantined", "Quarantined"),
                ],
                default="received",
                max_length=12,
            ),
        ),
        migrations.AddConstraint(
            model_name="image",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("ends_at_s__isnull", True),
                        ("frame_at_s__isnull", True),
                        ("starts_at_s__isnull", True),
                        ("video__isnull", True),
                    ),
                    models.Q(
                        ("ends_at_s__gte", models.F("frame_at_s")),
                        ("ends_at_s__isnull", False),
                        ("frame_at_s__gte", models.F("starts_at_s")),
                        ("frame_at_s__isnull", False),
                        ("starts_at_s__gte", 0),
                        ("starts_at_s__isnull", False),
                        ("video__isnull", False),
                    ),
                    _connector="OR",
                ),
                name="frames_and_no_others_have_times",
            ),
        ),
        migrations.AddConstraint(
            model_name="image",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("video__isnull", True),
                    models.Q(("state", "split"), _negated=True),
                    _connector="OR",
                ),
                name="no_frame_is_split",
            ),
        ),
        migrations.RunSQL(GRANTS),
    ]
