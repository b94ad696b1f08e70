"""Boxes that reviewers judge: drawn and taken off by the web role, covered by the worker."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

PROTECTION = """
ALTER TABLE retrieval_reviewbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_reviewbox FORCE ROW LEVEL SECURITY;
GRANT SELECT ON retrieval_reviewbox TO cloister_web;
GRANT INSERT (image_id, collection_id, kind, box, corners, score, detector, source, render,
              removed_reason, decided_by_id, decided_at) ON retrieval_reviewbox TO cloister_web;
GRANT UPDATE (removed_reason, decided_by_id, decided_at) ON retrieval_reviewbox TO cloister_web;
GRANT SELECT, INSERT, DELETE ON retrieval_reviewbox TO cloister_worker;

CREATE POLICY reviews ON retrieval_reviewbox FOR SELECT TO cloister_web
    USING (collection_id = ANY ((SELECT cloister_granted('{reviewer,owner}'))::bigint[]));
-- A reviewer draws in her own name, and never what a detector would have found.
CREATE POLICY draws ON retrieval_reviewbox FOR INSERT TO cloister_web
    WITH CHECK (collection_id = ANY ((SELECT cloister_granted('{reviewer,owner}'))::bigint[])
                AND source = 'reviewer' AND decided_by_id = (SELECT cloister_context_id('actor')));
CREATE POLICY takes_off ON retrieval_reviewbox FOR UPDATE TO cloister_web
    USING (collection_id = ANY ((SELECT cloister_granted('{reviewer,owner}'))::bigint[])
           AND removed_reason = '' AND source <> 'last_look')
    WITH CHECK (removed_reason <> '' AND decided_by_id = (SELECT cloister_context_id('actor')));
CREATE POLICY works ON retrieval_reviewbox FOR ALL TO cloister_worker
    USING (collection_id = (SELECT cloister_context_id('collection')));
"""


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0007_text_in_pictures"),
    ]

    operations = [
        migrations.AddField(
            model_name="image",
            name="render",
            field=models.PositiveIntegerField(
                default=0,
                help_text="How often its covers were drawn: what is released is one of these.",
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
            model_name="work",
            name="stage",
            field=models.CharField(
                choices=[
                    ("deidentify", "De-identify"),
                    ("cover", "Cover as reviewed"),
                    ("encode", "Encode"),
                ],
                max_length=12,
            ),
        ),
        migrations.CreateModel(
            name="ReviewBox",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("face", "Face"), ("text", "Writing"), ("code", "Code")],
                        max_length=4,
                    ),
                ),
                (
                    "box",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.PositiveIntegerField(),
                        help_text="x, y, w, h in pixels, upright.",
                        size=4,
                    ),
                ),
                (
                    "corners",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.IntegerField(),
                        help_text="x, y of the four corners of slanted writing, in order around it.",
                        null=True,
                        size=8,
                    ),
                ),
                ("score", models.FloatField(null=True)),
                ("detector", models.CharField(blank=True, max_length=100)),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("detector", "Detector"),
                            ("reviewer", "Reviewer"),
                            ("last_look", "Last look"),
                        ],
                        max_length=9,
                    ),
                ),
                (
                    "render",
                    models.PositiveIntegerField(
                        help_text="The render it was proposed or drawn on."
                    ),
                ),
                (
                    "removed_reason",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("not_a_face", "Not a face"),
                            ("not_text", "Not writing"),
                            ("not_a_code", "Not a code"),
                            ("allowed_text", "Writing that may stay"),
                            ("other", "Other"),
                        ],
                        max_length=12,
                    ),
                ),
                ("decided_at", models.DateTimeField(null=True)),
                (
                    "collection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.collection"
                    ),
                ),
                (
                    "decided_by",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "image",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="boxes",
                        to="retrieval.image",
                    ),
                ),
            ],
            options={
                "ordering": ["pk"],
                "default_permissions": (),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("box__len", 4)), name="review_box_has_four_sides"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("source__in", ["detector", "reviewer", "last_look"])),
                        name="review_box_source_is_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("removed_reason", ""),
                            models.Q(
                                ("decided_by__isnull", False),
                                (
                                    "removed_reason__in",
                                    [
                                        "not_a_face",
                                        "not_text",
                                        "not_a_code",
                                        "allowed_text",
                                        "other",
                                    ],
                                ),
                            ),
                            _connector="OR",
                        ),
                        name="review_box_is_removed_for_a_reason",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("source", "reviewer"), _negated=True),
                            ("decided_by__isnull", False),
                            _connector="OR",
                        ),
                        name="review_box_is_drawn_by_somebody",
                    ),
                ],
            },
        ),
        migrations.RunSQL(PROTECTION),
    ]
