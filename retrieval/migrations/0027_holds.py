"""Accounts held until a second person speaks for them, and what one person releases no more."""

from typing import Any

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import migrations, models

HOLDS = """
GRANT SELECT ON retrieval_hold TO cloister_web;
GRANT INSERT (user_id, reason, held_by_id, held_at, lifted_by_id, lifted_at)
    ON retrieval_hold TO cloister_web;

CREATE FUNCTION cloister_held(account bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT EXISTS (SELECT FROM retrieval_hold h
                   WHERE h.user_id = account AND h.lifted_at IS NULL AND h.reason <> 'break_glass')
$$;

-- Who and when are the database's word. False: not for this person to lift, or lifted already.
CREATE FUNCTION cloister_lift_hold(held bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    lifter bigint := cloister_context_id('actor');
BEGIN
    IF NOT cloister_may('lift_hold') THEN
        RAISE insufficient_privilege USING MESSAGE = 'no right to lift a hold';
    END IF;
    UPDATE retrieval_hold SET lifted_by_id = lifter, lifted_at = clock_timestamp()
        WHERE id = held AND lifted_at IS NULL AND user_id <> lifter
          AND (reason = 'break_glass' OR held_by_id <> lifter);
    RETURN FOUND;
END $$;

REVOKE EXECUTE ON FUNCTION cloister_held, cloister_lift_hold FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_lift_hold TO cloister_web;
"""

# As in migrations 0021, 0016, 0004, 0002 and 0011, and nothing for who is held.
HELD = """
CREATE OR REPLACE FUNCTION cloister_granted(roles text[]) RETURNS bigint[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    RETURN (
        SELECT coalesce(array_agg(DISTINCT g.collection_id), '{}') || CASE
            WHEN 'searcher' = ANY (roles) AND current_setting('cloister.purpose', true) = 'ETREAT'
            THEN cloister_glass_broken(cloister_context_id('actor'), false) ELSE '{}' END
        FROM retrieval_user u
        CROSS JOIN LATERAL (
            SELECT own.* FROM retrieval_grant own WHERE own.user_id = u.id
            UNION ALL
            SELECT shared.* FROM retrieval_user_groups m
            JOIN retrieval_grant shared ON shared.group_id = m.group_id WHERE m.user_id = u.id
        ) g
        JOIN retrieval_collection c ON c.id = g.collection_id
        WHERE u.id = cloister_context_id('actor')
          AND u.is_active
          AND NOT cloister_held(u.id)
          AND (u.responsible_id IS NULL OR cloister_token_opens(g.collection_id, roles))
          AND g.role = ANY (roles)
          AND current_setting('cloister.purpose', true) = ANY (g.purposes)
          AND current_setting('cloister.purpose', true) = ANY (c.purposes)
          AND g.valid_from <= clock_timestamp()
          AND (g.valid_until IS NULL OR g.valid_until > clock_timestamp())
    );
END $$;

CREATE OR REPLACE FUNCTION cloister_glass_broken(by_user bigint, only_originals boolean)
RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT b.collection_id), '{}')
    FROM retrieval_breakglass b JOIN retrieval_user u ON u.id = b.user_id
    WHERE b.user_id = by_user AND u.is_active AND u.responsible_id IS NULL
      AND NOT cloister_held(u.id)
      AND b.closed_at IS NULL
      AND b.opened_at <= clock_timestamp() AND b.open_until > clock_timestamp()
      AND (b.originals OR NOT only_originals)
$$;

CREATE OR REPLACE FUNCTION cloister_holds_right(holder bigint, codenames text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM retrieval_user u
        WHERE u.id = holder AND u.is_active AND NOT cloister_held(u.id) AND (
            u.is_superuser
            OR EXISTS (
                SELECT FROM auth_permission p
                JOIN django_content_type t ON t.id = p.content_type_id
                WHERE t.app_label = 'retrieval' AND p.codename = ANY (codenames) AND (
                    p.id IN (SELECT permission_id FROM retrieval_user_user_permissions
                             WHERE user_id = u.id)
                    OR p.id IN (SELECT gp.permission_id FROM auth_group_permissions gp
                                JOIN retrieval_user_groups m ON m.group_id = gp.group_id
                                WHERE m.user_id = u.id)
                )
            )
        )
    )
$$;

CREATE OR REPLACE FUNCTION cloister_may_read_log() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT cloister_may('view_auditevent')
$$;

-- Nor for who is barred from it, or set up the second factor today for an account from before.
CREATE OR REPLACE FUNCTION cloister_break_glass(
    new_id uuid, of_collection bigint, with_originals boolean, reason bytea
) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    now timestamptz := clock_timestamp();
    breaker bigint := cloister_context_id('actor');
BEGIN
    IF NOT EXISTS (SELECT FROM retrieval_user u WHERE u.id = breaker AND u.is_active)
       OR EXISTS (SELECT FROM retrieval_hold h WHERE h.user_id = breaker AND h.lifted_at IS NULL)
       OR NOT EXISTS (SELECT FROM retrieval_authenticator a JOIN retrieval_user u ON u.id = a.user_id
                      WHERE u.id = breaker AND (
                          a.enrolled_at <= now - interval '24 hours'
                          OR (a.enrolled_at <= u.date_joined + interval '24 hours'
                              AND u.password NOT LIKE '!%'))) THEN
        RAISE insufficient_privilege USING MESSAGE = 'nobody acts here';
    END IF;
    INSERT INTO retrieval_breakglass
        (id, user_id, collection_id, originals, sealed_reason, opened_at, open_until, verdict)
        VALUES (new_id, breaker, of_collection, with_originals, reason,
                now, now + interval '60 minutes', '');
    RETURN now + interval '60 minutes';
END $$;
"""

# The owner's function is held by row-level security like everybody.
REVIEW = """
CREATE POLICY functions ON retrieval_reviewbox FOR SELECT TO CURRENT_USER USING (true);

CREATE FUNCTION cloister_require_second_reviewer() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM retrieval_reviewbox b
               WHERE b.image_id = NEW.id AND b.removed_reason <> ''
                 AND b.decided_by_id = cloister_context_id('actor')) THEN
        RAISE insufficient_privilege
            USING MESSAGE = 'who took a cover off does not release the image';
    END IF;
    RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION cloister_require_second_reviewer FROM PUBLIC;
CREATE TRIGGER second_reviewer_releases BEFORE UPDATE OF state ON retrieval_image
    FOR EACH ROW WHEN (OLD.state = 'review' AND NEW.state IN ('deidentified', 'indexed'))
    EXECUTE FUNCTION cloister_require_second_reviewer();
"""


def _account(related_name: str, **options: Any) -> models.ForeignKey[Any, Any]:
    return models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=django.db.models.deletion.DO_NOTHING,
        db_constraint=False,
        related_name=related_name,
        **options,
    )


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0026_tag_words")]

    operations = [
        migrations.AlterField(
            "authenticator",
            "enrolled_at",
            models.DateTimeField(
                default=django.utils.timezone.now,
                help_text="Since when the user has had one: another app in its place begins nothing anew.",
            ),
        ),
        migrations.AddField(
            "keptquery",
            "collections",
            ArrayField(
                models.BigIntegerField(),
                default=list,
                help_text="Those that were searched.",
                size=None,
            ),
        ),
        migrations.CreateModel(
            name="Hold",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("password", "Its password was set by somebody else"),
                            ("second_factor", "Its second factor was reset by somebody else"),
                            ("responsible", "Another person answers for this program"),
                            ("break_glass", "Broke the glass without justification"),
                        ],
                        max_length=13,
                    ),
                ),
                ("held_at", models.DateTimeField(auto_now_add=True)),
                ("lifted_at", models.DateTimeField(null=True)),
                ("user", _account("holds")),
                ("held_by", _account("holds_placed")),
                ("lifted_by", _account("holds_lifted", null=True)),
            ],
            options={
                "ordering": [
                    models.OrderBy(models.F("lifted_at"), descending=True, nulls_first=True),
                    "-held_at",
                ],
                "permissions": [("lift_hold", "Can confirm accounts that somebody reset")],
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        condition=models.Q(("lifted_at", None)),
                        fields=["user"],
                        name="hold_still_held",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("lifted_at__isnull", True), ("lifted_by__isnull", True)),
                            models.Q(
                                ("lifted_at__isnull", False),
                                ("lifted_by__isnull", False),
                                models.Q(("lifted_by", models.F("user")), _negated=True),
                                models.Q(
                                    ("reason", "break_glass"),
                                    models.Q(("lifted_by", models.F("held_by")), _negated=True),
                                    _connector="OR",
                                ),
                            ),
                            _connector="OR",
                        ),
                        name="hold_is_lifted_by_a_second_person",
                    )
                ],
            },
        ),
        migrations.RunSQL(HOLDS),
        migrations.RunSQL(HELD),
        migrations.RunSQL(REVIEW),
    ]
