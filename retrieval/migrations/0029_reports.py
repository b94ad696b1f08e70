"""Texts that belong to pictures, and encoders that read them."""

import django.db.models.deletion
from django.db import migrations, models

PROTECTION = """
ALTER TABLE retrieval_report ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_report FORCE ROW LEVEL SECURITY;
-- For who hands in. Who searches reads vectors, and learns nothing else of a report.
CREATE POLICY ingests ON retrieval_report FOR ALL TO cloister_web
    USING (collection_id = ANY ((SELECT cloister_granted('{curator,owner}'))::bigint[]));
CREATE POLICY works ON retrieval_report FOR ALL TO cloister_worker
    USING (collection_id = (SELECT cloister_context_id('collection')));
GRANT SELECT, INSERT, UPDATE ON retrieval_report TO cloister_web;
GRANT SELECT, UPDATE (rules_digest, passages) ON retrieval_report TO cloister_worker;
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0028_epsilon_counted")]

    operations = [
        migrations.CreateModel(
            name="Report",
            fields=[
                (
                    "image",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        serialize=False,
                        to="retrieval.image",
                    ),
                ),
                (
                    "content_key",
                    models.BinaryField(
                        help_text="Keyed hash (HMAC-SHA256) of the text: the same one again changes nothing."
                    ),
                ),
                (
                    "rules_digest",
                    models.CharField(
                        blank=True,
                        help_text="Of the rules it was cleaned by; empty until it was.",
                        max_length=64,
                    ),
                ),
                (
                    "passages",
                    models.PositiveSmallIntegerField(
                        default=0,
                        help_text="Vectors it has of each encoder; none where cleaning left no word.",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.RemoveConstraint(
            model_name="encoderversion",
            name="one_live_encoder",
        ),
        migrations.AddField(
            model_name="collection",
            name="has_reports",
            field=models.BooleanField(
                default=False,
                editable=False,
                help_text="A report came in here once: without any, no search looks for one.",
            ),
        ),
        migrations.AddField(
            model_name="encoderversion",
            name="reads",
            field=models.CharField(
                choices=[("pictures", "Pictures"), ("reports", "Reports")],
                default="pictures",
                max_length=8,
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
                    ("not_a_text", "Not a text"),
                    ("ambiguous_report", "Ambiguous report"),
                    ("report_without_picture", "Report without picture"),
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
            model_name="work",
            name="stage",
            field=models.CharField(
                choices=[
                    ("deidentify", "De-identify"),
                    ("cover", "Cover as reviewed"),
                    ("encode", "Encode"),
                    ("report", "Clean and encode its report"),
                ],
                max_length=12,
            ),
        ),
        migrations.AddConstraint(
            model_name="encoderversion",
            constraint=models.UniqueConstraint(
                condition=models.Q(("live", True)),
                fields=("reads",),
                name="one_live_encoder_of_each",
            ),
        ),
        migrations.AddField(
            model_name="report",
            name="batch",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, to="retrieval.importbatch"
            ),
        ),
        migrations.AddField(
            model_name="report",
            name="collection",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, to="retrieval.collection"
            ),
        ),
        migrations.RunSQL(PROTECTION),
    ]
