"""Tokens of programs, and what they narrow in the second lock."""

import datetime
import uuid

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.expressions
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

PROTECTION = """
GRANT SELECT, INSERT ON retrieval_apitoken TO cloister_web;
GRANT USAGE ON SEQUENCE retrieval_apitoken_id_seq TO cloister_web;
-- A token is ended, early or at once: it never becomes another one.
GRANT UPDATE (expires_at, revoked_at) ON retrieval_apitoken TO cloister_web;
GRANT SELECT, INSERT, UPDATE ON retrieval_tokenuse TO cloister_web;

-- The token of the context, while it holds.
CREATE FUNCTION cloister_token() RETURNS SETOF retrieval_apitoken
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT t.*
    FROM retrieval_apitoken t
    JOIN retrieval_user u ON u.id = t.account_id
    JOIN retrieval_user r ON r.id = u.responsible_id
    WHERE t.id = cloister_context_id('token')
      AND u.id = cloister_context_id('actor')
      AND u.is_active AND r.is_active
      AND t.revoked_at IS NULL AND t.expires_at > clock_timestamp()
$$;

-- The policies ask with the roles that may: all five may read, searchers search, of those who are
-- left curators hand in. What only reviewers and owners may is not for programs.
CREATE FUNCTION cloister_token_opens(of_collection bigint, roles text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM cloister_token() t
        WHERE of_collection = ANY (t.collections)
          AND current_setting('cloister.purpose', true) = ANY (t.purposes)
          AND CASE WHEN 'viewer' = ANY (roles) THEN true
                   WHEN 'searcher' = ANY (roles) THEN 'search' = ANY (t.scopes)
                   WHEN 'curator' = ANY (roles) THEN 'ingest' = ANY (t.scopes)
                   ELSE false END
    )
$$;

CREATE FUNCTION cloister_own_tokens() RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(array_agg(mine.id), '{}')
    FROM cloister_token() t JOIN retrieval_apitoken mine ON mine.series = t.series
    WHERE 'status' = ANY (t.scopes)
$$;

-- As before (migration 0011), and for a program only what its token leaves of its grants.
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
      AND (u.responsible_id IS NULL OR cloister_token_opens(g.collection_id, roles))
      AND g.role = ANY (roles)
      AND current_setting('cloister.purpose', true) = ANY (g.purposes)
      AND current_setting('cloister.purpose', true) = ANY (c.purposes)
      AND g.valid_from <= clock_timestamp()
      AND (g.valid_until IS NULL OR g.valid_until > clock_timestamp())
$$;

-- As before (migration 0011); a program breaks no glass.
CREATE OR REPLACE FUNCTION cloister_glass_broken(by_user bigint, only_originals boolean)
RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT b.collection_id), '{}')
    FROM retrieval_breakglass b JOIN retrieval_user u ON u.id = b.user_id
    WHERE b.user_id = by_user AND u.is_active AND u.responsible_id IS NULL
      AND b.closed_at IS NULL
      AND b.opened_at <= clock_timestamp() AND b.open_until > clock_timestamp()
      AND (b.originals OR NOT only_originals)
$$;

-- Rights of the administration are for people; a program reads its own entries.
ALTER POLICY auditors_read ON retrieval_auditevent
    USING ((SELECT cloister_may_read_log()) AND NOT EXISTS (
        SELECT FROM retrieval_user u
        WHERE u.id = (SELECT cloister_context_id('actor')) AND u.responsible_id IS NOT NULL));
CREATE POLICY programs_read_their_own ON retrieval_auditevent FOR SELECT TO cloister_web
    USING (actor_id = (SELECT cloister_context_id('actor'))
           AND CASE WHEN details ~ '"token":[0-9]{1,18}[,}]'
                    THEN (details::jsonb ->> 'token')::bigint = ANY ((SELECT cloister_own_tokens())::bigint[])
                    ELSE false END);

REVOKE EXECUTE ON FUNCTION cloister_token, cloister_token_opens, cloister_own_tokens FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_own_tokens TO cloister_web;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("retrieval", "0015_studies_and_duplicates"),
    ]

    operations = [
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "name",
                    models.CharField(help_text="Where it is used. Shown here only.", max_length=60),
                ),
                (
                    "series",
                    models.UUIDField(
                        default=uuid.uuid4,
                        editable=False,
                        help_text="A token and those it was rotated into: they share limits and entries.",
                    ),
                ),
                ("digest", models.CharField(editable=False, max_length=64, unique=True)),
                (
                    "scopes",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[
                                ("search", "Search and look at images"),
                                ("ingest", "Hand in images"),
                                (
                                    "status",
                                    "Follow imports, and prove one's own entries in the log",
                                ),
                                ("admin:tokens", "Rotate itself"),
                            ],
                            max_length=20,
                        ),
                        size=None,
                    ),
                ),
                (
                    "collections",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), size=None
                    ),
                ),
                (
                    "purposes",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[
                                ("TREAT", "Treatment"),
                                ("ETREAT", "Emergency treatment"),
                                ("HRESCH", "Healthcare research"),
                                ("HOPERAT", "Healthcare operations"),
                                ("PUBHLTH", "Public health"),
                                ("HSYSADMIN", "Health system administration"),
                            ],
                            max_length=12,
                        ),
                        size=None,
                    ),
                ),
                (
                    "per_minute",
                    models.PositiveIntegerField(default=60, help_text="Requests a minute."),
                ),
                (
                    "queries_per_day",
                    models.PositiveIntegerField(default=1000, help_text="Queries a day (UTC)."),
                ),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                ("expires_at", models.DateTimeField()),
                ("revoked_at", models.DateTimeField(editable=False, null=True)),
            ],
            options={
                "ordering": ["-pk"],
            },
        ),
        migrations.CreateModel(
            name="TokenUse",
            fields=[
                ("series", models.UUIDField(primary_key=True, serialize=False)),
                ("last_used_at", models.DateTimeField(null=True)),
                (
                    "due_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now,
                        help_text="When the requests so far would have been made, evenly spaced (GCRA).",
                    ),
                ),
                ("day", models.DateField(null=True)),
                ("queries", models.PositiveIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="ServiceAccount",
            fields=[],
            options={
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("retrieval.user",),
        ),
        migrations.AddField(
            model_name="user",
            name="responsible",
            field=models.ForeignKey(
                blank=True,
                help_text="The person who answers for this program. An account with one never signs in.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="service_accounts",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("responsible__isnull", True),
                    models.Q(
                        ("is_staff", False),
                        ("is_superuser", False),
                        ("last_login__isnull", True),
                        ("password__startswith", "!"),
                    ),
                    _connector="OR",
                ),
                name="a_service_account_never_signs_in",
            ),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="created_by",
            field=models.ForeignKey(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="tokens_issued",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="account",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="tokens",
                to="retrieval.serviceaccount",
            ),
        ),
        migrations.AddConstraint(
            model_name="apitoken",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("collections__len__gte", 1), ("purposes__len__gte", 1), ("scopes__len__gte", 1)
                ),
                name="token_names_what_it_is_for",
            ),
        ),
        migrations.AddConstraint(
            model_name="apitoken",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "expires_at__lte",
                        django.db.models.expressions.CombinedExpression(
                            models.F("created_at"), "+", models.Value(datetime.timedelta(days=366))
                        ),
                    )
                ),
                name="token_ends_within_a_year",
            ),
        ),
        migrations.AddConstraint(
            model_name="apitoken",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("per_minute__gte", 1),
                    ("per_minute__lte", 600),
                    ("queries_per_day__gte", 1),
                    ("queries_per_day__lte", 100000),
                ),
                name="token_has_limits",
            ),
        ),
        migrations.RunSQL(PROTECTION),
    ]
