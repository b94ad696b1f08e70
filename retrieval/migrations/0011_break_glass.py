"""Break-glass, small cohorts, and queries that are kept apart from the log."""

import uuid

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

PROTECTION = """
ALTER TABLE retrieval_breakglass ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_breakglass FORCE ROW LEVEL SECURITY;
ALTER TABLE retrieval_keptquery ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_keptquery FORCE ROW LEVEL SECURITY;

-- The owner's functions below are held by row-level security like everybody.
CREATE POLICY functions ON retrieval_breakglass FOR ALL TO CURRENT_USER USING (true);
CREATE POLICY functions ON retrieval_keptquery FOR ALL TO CURRENT_USER USING (true);

GRANT SELECT ON retrieval_breakglass, retrieval_keptquery TO cloister_web;
GRANT INSERT ON retrieval_keptquery TO cloister_web;
CREATE POLICY own_and_officers ON retrieval_breakglass FOR SELECT TO cloister_web
    USING (user_id = (SELECT cloister_context_id('actor'))
           OR (SELECT cloister_may('review_breakglass')));
CREATE POLICY officers_read ON retrieval_keptquery FOR SELECT TO cloister_web
    USING ((SELECT cloister_may('view_keptquery')) AND delete_after > clock_timestamp());
CREATE POLICY keeps_own ON retrieval_keptquery FOR INSERT TO cloister_web
    WITH CHECK (actor_id = (SELECT cloister_context_id('actor')));
"""

# Who and when are the database's word, never an argument.
FUNCTIONS = """
CREATE FUNCTION cloister_break_glass(
    new_id uuid, of_collection bigint, with_originals boolean, reason bytea
) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    now timestamptz := clock_timestamp();
BEGIN
    IF NOT EXISTS (SELECT FROM retrieval_user u
                   WHERE u.id = cloister_context_id('actor') AND u.is_active) THEN
        RAISE insufficient_privilege USING MESSAGE = 'nobody acts here';
    END IF;
    INSERT INTO retrieval_breakglass
        (id, user_id, collection_id, originals, sealed_reason, opened_at, open_until, verdict)
        VALUES (new_id, cloister_context_id('actor'), of_collection, with_originals, reason,
                now, now + interval '60 minutes', '');
    RETURN now + interval '60 minutes';
END $$;

CREATE FUNCTION cloister_close_glass(broken uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE retrieval_breakglass SET closed_at = clock_timestamp()
        WHERE id = broken AND closed_at IS NULL AND open_until > clock_timestamp()
          AND (user_id = cloister_context_id('actor') OR cloister_may('review_breakglass'));
    RETURN FOUND;
END $$;

-- False: there is none to review, or it was reviewed already.
CREATE FUNCTION cloister_review_glass(broken uuid, found_to_be text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    asked retrieval_breakglass%ROWTYPE;
BEGIN
    IF NOT cloister_may('review_breakglass') THEN
        RAISE insufficient_privilege USING MESSAGE = 'no right to review break-glass';
    END IF;
    SELECT * INTO asked FROM retrieval_breakglass WHERE id = broken AND verdict = '' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF asked.user_id = cloister_context_id('actor') THEN
        RAISE insufficient_privilege USING MESSAGE = 'break-glass is reviewed by a second person';
    END IF;
    UPDATE retrieval_breakglass
        SET verdict = found_to_be, reviewed_by_id = cloister_context_id('actor'),
            reviewed_at = clock_timestamp(),
            closed_at = CASE WHEN found_to_be = 'not_justified' AND open_until > clock_timestamp()
                             THEN coalesce(closed_at, clock_timestamp()) ELSE closed_at END
        WHERE id = broken;
    RETURN true;
END $$;

CREATE FUNCTION cloister_glass_broken(by_user bigint, only_originals boolean) RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT b.collection_id), '{}')
    FROM retrieval_breakglass b JOIN retrieval_user u ON u.id = b.user_id
    WHERE b.user_id = by_user AND u.is_active AND b.closed_at IS NULL
      AND b.opened_at <= clock_timestamp() AND b.open_until > clock_timestamp()
      AND (b.originals OR NOT only_originals)
$$;

-- Where the glass is broken, its breaker may what a searcher may, for emergency treatment only.
-- For a badge: how many wait for this officer. Without a context, as any page may ask.
CREATE FUNCTION cloister_unreviewed_glass(officer bigint) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT CASE WHEN cloister_holds_right(officer, '{review_breakglass}')
                THEN (SELECT count(*) FROM retrieval_breakglass b
                      WHERE b.verdict = '' AND b.user_id <> officer) ELSE 0 END
$$;

-- Replaced in place: the policies know it by its identity.
CREATE OR REPLACE FUNCTION cloister_granted(roles text[]) RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT g.collection_id), '{}') || CASE
        WHEN 'searcher' = ANY (roles) AND current_setting('cloister.purpose', true) = 'ETREAT'
        THEN cloister_glass_broken(cloister_context_id('actor'), false) ELSE '{}' END
    FROM retrieval_user u
    JOIN retrieval_grant g
      ON g.user_id = u.id
      OR g.group_id IN (SELECT m.group_id FROM retrieval_user_groups m WHERE m.user_id = u.id)
    JOIN retrieval_collection c ON c.id = g.collection_id
    WHERE u.id = cloister_context_id('actor')
      AND u.is_active
      AND g.role = ANY (roles)
      AND current_setting('cloister.purpose', true) = ANY (g.purposes)
      AND current_setting('cloister.purpose', true) = ANY (c.purposes)
      AND g.valid_from <= clock_timestamp()
      AND (g.valid_until IS NULL OR g.valid_until > clock_timestamp())
$$;

CREATE FUNCTION cloister_sweep_kept_queries() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    swept integer;
BEGIN
    DELETE FROM retrieval_keptquery WHERE delete_after <= clock_timestamp();
    GET DIAGNOSTICS swept = ROW_COUNT;
    RETURN swept;
END $$;

REVOKE EXECUTE ON FUNCTION cloister_break_glass,
    cloister_close_glass, cloister_review_glass, cloister_glass_broken, cloister_unreviewed_glass,
    cloister_sweep_kept_queries FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_break_glass, cloister_close_glass, cloister_review_glass,
    cloister_glass_broken, cloister_unreviewed_glass TO cloister_web;
GRANT EXECUTE ON FUNCTION cloister_glass_broken, cloister_sweep_kept_queries TO cloister_worker;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0010_training"),
    ]

    operations = [
        migrations.AddField(
            model_name="collection",
            name="keep_queries_days",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="Keep what was searched here, sealed and apart from the log, for so many days. Empty: the log's keyed hash is all there is.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(3650),
                ],
            ),
        ),
        migrations.AddField(
            model_name="collection",
            name="minimum_cohort",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="Counts that fewer distinct subjects than this stand behind are withheld. 0 withholds none.",
            ),
        ),
        migrations.CreateModel(
            name="BreakGlass",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "originals",
                    models.BooleanField(help_text="Whether original pixels may be looked at, too."),
                ),
                (
                    "sealed_reason",
                    models.BinaryField(help_text="Why, in the person's words: they may name one."),
                ),
                ("opened_at", models.DateTimeField()),
                ("open_until", models.DateTimeField()),
                ("closed_at", models.DateTimeField(null=True)),
                (
                    "verdict",
                    models.CharField(
                        blank=True,
                        choices=[("justified", "Justified"), ("not_justified", "Not justified")],
                        max_length=13,
                    ),
                ),
                ("reviewed_at", models.DateTimeField(null=True)),
                (
                    "collection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.collection"
                    ),
                ),
                (
                    "reviewed_by",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="glass_reviewed",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="glass_broken",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "break-glass",
                "verbose_name_plural": "break-glass",
                "ordering": [
                    models.OrderBy(models.F("reviewed_at"), descending=True, nulls_first=True),
                    "-opened_at",
                ],
                "permissions": [("review_breakglass", "Can review who broke the glass")],
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        fields=["user", "open_until"], name="retrieval_b_user_id_81b885_idx"
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("open_until__gt", models.F("opened_at"))),
                        name="glass_is_broken_for_a_while",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("reviewed_at__isnull", True),
                                ("reviewed_by__isnull", True),
                                ("verdict", ""),
                            ),
                            models.Q(
                                models.Q(("reviewed_by", models.F("user")), _negated=True),
                                ("reviewed_at__isnull", False),
                                ("reviewed_by__isnull", False),
                                ("verdict__in", ["justified", "not_justified"]),
                            ),
                            _connector="OR",
                        ),
                        name="glass_is_reviewed_by_a_second_person",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="KeptQuery",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "entry",
                    models.BigIntegerField(
                        help_text="The log's entry of that search.", unique=True
                    ),
                ),
                ("wrapped_key", models.BinaryField()),
                ("sealed_words", models.BinaryField()),
                ("sealed_image", models.BinaryField()),
                ("kept_at", models.DateTimeField(auto_now_add=True)),
                ("delete_after", models.DateTimeField()),
                (
                    "actor",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "kept query",
                "verbose_name_plural": "kept queries",
                "ordering": ["-entry"],
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["delete_after"], name="retrieval_k_delete__0b2074_idx")
                ],
            },
        ),
        migrations.RunSQL(PROTECTION),
        migrations.RunSQL(FUNCTIONS),
    ]
