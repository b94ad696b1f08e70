"""Budgets, the ledger of private training, and certificates.

Neither role writes a budget: functions of the owner do, and they ask for a second person where
one is due. A reservation is added and closed once by a worker, and never deleted.
"""

import uuid

import django.db.models.deletion
import django.db.models.expressions
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

RIGHTS = """
CREATE FUNCTION cloister_holds_right(holder bigint, codenames text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM retrieval_user u
        WHERE u.id = holder AND u.is_active AND (
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

CREATE FUNCTION cloister_may(VARIADIC codenames text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT cloister_holds_right(cloister_context_id('actor'), codenames)
$$;
"""

BUDGETS = """
-- One person sets a budget once and lowers it; whatever is more than before takes two.
CREATE FUNCTION cloister_set_budget(
    of_collection bigint, new_max_epsilon double precision, new_delta double precision
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    before retrieval_budget%ROWTYPE;
BEGIN
    IF NOT cloister_may('change_budget') THEN
        RAISE insufficient_privilege USING MESSAGE = 'no right to set a budget';
    END IF;
    INSERT INTO retrieval_budget (collection_id, max_epsilon, delta, changed_at)
        VALUES (of_collection, new_max_epsilon, new_delta, clock_timestamp())
        ON CONFLICT (collection_id) DO NOTHING;
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT before FROM retrieval_budget
        WHERE collection_id = of_collection FOR UPDATE;
    IF new_max_epsilon > before.max_epsilon OR new_delta > before.delta THEN
        RAISE insufficient_privilege USING MESSAGE = 'a raise needs a second person';
    END IF;
    UPDATE retrieval_budget
        SET max_epsilon = new_max_epsilon, delta = new_delta, changed_at = clock_timestamp()
        WHERE id = before.id;
END $$;

-- False: it is decided already, the budget was changed since, or who asked may no longer ask.
CREATE FUNCTION cloister_approve_raise(proposal bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    asked retrieval_budgetproposal%ROWTYPE;
    approver bigint := cloister_context_id('actor');
BEGIN
    IF NOT cloister_may('change_budget') THEN
        RAISE insufficient_privilege USING MESSAGE = 'no right to approve a raise';
    END IF;
    SELECT * INTO asked FROM retrieval_budgetproposal
        WHERE id = proposal AND outcome = 'open' FOR UPDATE;
    IF NOT FOUND OR NOT cloister_holds_right(asked.proposed_by_id, '{change_budget}') THEN
        RETURN false;
    END IF;
    IF asked.proposed_by_id = approver THEN
        RAISE insufficient_privilege USING MESSAGE = 'a raise needs a second person';
    END IF;
    UPDATE retrieval_budget
        SET max_epsilon = asked.max_epsilon, delta = asked.delta, changed_at = clock_timestamp()
        WHERE collection_id = asked.collection_id
          AND max_epsilon = asked.from_max_epsilon AND delta = asked.from_delta;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE retrieval_budgetproposal
        SET outcome = 'approved', decided_by_id = approver, decided_at = clock_timestamp()
        WHERE id = proposal;
    RETURN true;
END $$;

-- Two trainings that reserve at once wait for each other here: the lock holds until they commit.
CREATE FUNCTION cloister_lock_budget(of_collection bigint) RETURNS SETOF retrieval_budget
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT * FROM retrieval_budget
    WHERE collection_id = of_collection AND of_collection = cloister_context_id('collection')
    FOR UPDATE
$$;
"""

POLICIES = """
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['retrieval_budget', 'retrieval_budgetproposal',
                                'retrieval_reservation', 'retrieval_subjectgroup',
                                'retrieval_subjectgroupmember', 'retrieval_certificate']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    END LOOP;

    FOREACH name IN ARRAY ARRAY['retrieval_budget', 'retrieval_budgetproposal',
                                'retrieval_reservation', 'retrieval_subjectgroup']
    LOOP
        EXECUTE format(
            'CREATE POLICY officers_read ON %I FOR SELECT TO cloister_web
             USING ((SELECT cloister_may(''view_budget'', ''change_budget'')))', name);
    END LOOP;

    FOREACH name IN ARRAY ARRAY['retrieval_budget', 'retrieval_reservation',
                                'retrieval_subjectgroup', 'retrieval_subjectgroupmember']
    LOOP
        EXECUTE format(
            'CREATE POLICY works_on ON %I FOR SELECT TO cloister_worker
             USING (collection_id = (SELECT cloister_context_id(''collection'')))', name);
    END LOOP;

    FOREACH name IN ARRAY ARRAY['retrieval_subjectgroup', 'retrieval_subjectgroupmember',
                                'retrieval_certificate']
    LOOP
        EXECUTE format(
            'CREATE POLICY adds ON %I FOR INSERT TO cloister_worker
             WITH CHECK (collection_id = (SELECT cloister_context_id(''collection'')))', name);
    END LOOP;
END $$;

-- The owner's functions above are held by row-level security like everybody.
CREATE POLICY functions ON retrieval_budget FOR ALL TO CURRENT_USER USING (true);
CREATE POLICY functions ON retrieval_budgetproposal FOR ALL TO CURRENT_USER USING (true);

CREATE POLICY proposes ON retrieval_budgetproposal FOR INSERT TO cloister_web
    WITH CHECK ((SELECT cloister_may('change_budget')) AND outcome = 'open'
                AND proposed_by_id = (SELECT cloister_context_id('actor')));
CREATE POLICY declines ON retrieval_budgetproposal FOR UPDATE TO cloister_web
    USING ((SELECT cloister_may('change_budget')) AND outcome = 'open')
    WITH CHECK (outcome = 'declined' AND decided_by_id = (SELECT cloister_context_id('actor')));

CREATE POLICY reserves ON retrieval_reservation FOR INSERT TO cloister_worker
    WITH CHECK (collection_id = (SELECT cloister_context_id('collection')) AND state = 'open');
-- What is closed stays as it is: nobody settles for less later.
CREATE POLICY closes ON retrieval_reservation FOR UPDATE TO cloister_worker
    USING (collection_id = (SELECT cloister_context_id('collection')) AND state = 'open')
    WITH CHECK (state IN ('settled', 'void'));

CREATE POLICY officers_read ON retrieval_certificate FOR SELECT TO cloister_web
    USING ((SELECT cloister_may('view_certificate')));
-- A switch concerns all collections, and a certificate holds digests and numbers only.
CREATE POLICY works_on ON retrieval_certificate FOR SELECT TO cloister_worker USING (true);

GRANT SELECT ON retrieval_budget, retrieval_budgetproposal, retrieval_reservation,
    retrieval_subjectgroup, retrieval_certificate TO cloister_web;
GRANT INSERT ON retrieval_budgetproposal TO cloister_web;
GRANT UPDATE (outcome, decided_by_id, decided_at) ON retrieval_budgetproposal TO cloister_web;
GRANT SELECT ON retrieval_budget TO cloister_worker;
GRANT SELECT, INSERT ON retrieval_reservation, retrieval_subjectgroup,
    retrieval_subjectgroupmember, retrieval_certificate TO cloister_worker;
GRANT UPDATE (state, spent, epsilon, closed_total_epsilon, closed_at, closed_event)
    ON retrieval_reservation TO cloister_worker;
GRANT SELECT ON retrieval_subject TO cloister_worker;

REVOKE EXECUTE ON FUNCTION cloister_holds_right, cloister_may, cloister_set_budget,
    cloister_approve_raise, cloister_lock_budget FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_may, cloister_set_budget, cloister_approve_raise
    TO cloister_web;
GRANT EXECUTE ON FUNCTION cloister_lock_budget TO cloister_worker;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0003_first_rows"),
    ]

    operations = [
        migrations.AddField(
            model_name="encoderversion",
            name="base",
            field=models.ForeignKey(
                blank=True,
                help_text="The encoder it was trained from, on a collection's images.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                to="retrieval.encoderversion",
            ),
        ),
        migrations.AlterField(
            model_name="auditevent",
            name="kind",
            field=models.CharField(
                choices=[
                    ("search.served", "Search served"),
                    ("search.denied", "Search denied"),
                    ("search.failed", "Search failed"),
                    ("image.viewed", "Image viewed"),
                    ("image.denied", "Image denied"),
                    ("images.listed", "Images listed"),
                    ("import.started", "Import started"),
                    ("import.denied", "Import denied"),
                    ("import.finished", "Import finished"),
                    ("review.decided", "Review decided"),
                    ("work.retried", "Work retried"),
                    ("grant.changed", "Grant changed"),
                    ("collection.changed", "Collection changed"),
                    ("profile.changed", "Privacy profile changed"),
                    ("encoder.changed", "Encoder changed"),
                    ("budget.changed", "Privacy budget changed"),
                    ("budget.reserved", "Privacy budget reserved"),
                    ("budget.settled", "Privacy budget settled"),
                    ("budget.voided", "Privacy budget charged in full"),
                    ("budget.refused", "Privacy budget refused"),
                    ("budget.read", "Privacy budgets read"),
                    ("model.certified", "Model certified"),
                    ("model.refused", "Model refused"),
                    ("certificate.read", "Certificates read"),
                    ("user.changed", "User changed"),
                    ("session.signed_in", "Signed in"),
                    ("session.sign_in_failed", "Sign-in failed"),
                    ("session.signed_out", "Signed out"),
                    ("audit.verified", "Log verified"),
                    ("audit.read", "Log read"),
                ],
                max_length=40,
            ),
        ),
        migrations.CreateModel(
            name="Reservation",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("open", "Open: the whole plan is charged"),
                            ("settled", "Settled: what ran is charged"),
                            ("void", "Void: the whole plan stays charged"),
                        ],
                        default="open",
                        max_length=7,
                    ),
                ),
                (
                    "unit",
                    models.CharField(
                        choices=[("subject", "Subject"), ("image", "Image")], max_length=7
                    ),
                ),
                ("units", models.PositiveIntegerField(help_text="How many were in the data.")),
                (
                    "plan",
                    models.JSONField(help_text="Mechanisms: noise multiplier, sample rate, steps."),
                ),
                (
                    "spent",
                    models.JSONField(help_text="The mechanisms that ran, once settled.", null=True),
                ),
                ("delta", models.FloatField(help_text="Of this training alone.")),
                (
                    "epsilon",
                    models.FloatField(help_text="Of what this training is charged, at its delta."),
                ),
                ("budget_delta", models.FloatField()),
                (
                    "total_epsilon",
                    models.FloatField(
                        help_text="Of all trainings, this one reserved, at the budget's delta."
                    ),
                ),
                (
                    "closed_total_epsilon",
                    models.FloatField(help_text="The same, once it was closed.", null=True),
                ),
                ("reserved_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("closed_at", models.DateTimeField(null=True)),
                ("reserved_event", models.BigIntegerField(help_text="Its entry in the audit log.")),
                ("closed_event", models.BigIntegerField(null=True)),
                (
                    "collection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.collection"
                    ),
                ),
                (
                    "reserved_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["-reserved_at"],
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Certificate",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "document",
                    models.TextField(help_text="JSON: the certificate, its signature, its key."),
                ),
                ("issued_at", models.DateTimeField()),
                ("event", models.BigIntegerField(help_text="Its entry in the audit log.")),
                (
                    "collection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.collection"
                    ),
                ),
                (
                    "encoder",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="certificates",
                        to="retrieval.encoderversion",
                    ),
                ),
                (
                    "reservation",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="certificate",
                        to="retrieval.reservation",
                    ),
                ),
            ],
            options={
                "ordering": ["-issued_at"],
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="SubjectGroup",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("label", models.CharField(max_length=64)),
                (
                    "collection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.collection"
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.AddField(
            model_name="reservation",
            name="subject_group",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, to="retrieval.subjectgroup"
            ),
        ),
        migrations.CreateModel(
            name="SubjectGroupMember",
            fields=[
                (
                    "subject",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="retrieval.subject",
                    ),
                ),
                (
                    "collection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.collection"
                    ),
                ),
                (
                    "group",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="members",
                        to="retrieval.subjectgroup",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Budget",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "max_epsilon",
                    models.FloatField(help_text="The most that all trainings together may spend."),
                ),
                (
                    "delta",
                    models.FloatField(
                        help_text="At which ε is counted; less than one over the units."
                    ),
                ),
                ("changed_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "collection",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT, to="retrieval.collection"
                    ),
                ),
            ],
            options={
                "ordering": ["collection__name"],
                "default_permissions": ("view", "change"),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("max_epsilon__gte", 0), ("max_epsilon__lte", 100)),
                        name="budget_epsilon_is_bounded",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("delta__gt", 0), ("delta__lt", 1)),
                        name="budget_delta_is_a_probability",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="BudgetProposal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("max_epsilon", models.FloatField()),
                ("delta", models.FloatField()),
                (
                    "from_max_epsilon",
                    models.FloatField(help_text="The budget when it was asked for."),
                ),
                ("from_delta", models.FloatField()),
                ("proposed_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("open", "Open"),
                            ("approved", "Approved"),
                            ("declined", "Declined"),
                        ],
                        default="open",
                        max_length=8,
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
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="raises_decided",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "proposed_by",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="raises_proposed",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["-proposed_at"],
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("outcome", "open")),
                        fields=("collection",),
                        name="one_open_raise",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("outcome", "approved"), _negated=True),
                            models.Q(("decided_by", models.F("proposed_by")), _negated=True),
                            _connector="OR",
                        ),
                        name="raise_is_approved_by_another",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("decided_at__isnull", True),
                                ("decided_by__isnull", True),
                                ("outcome", "open"),
                            ),
                            models.Q(
                                ("decided_at__isnull", False),
                                ("decided_by__isnull", False),
                                ("outcome__in", ["approved", "declined"]),
                            ),
                            _connector="OR",
                        ),
                        name="raise_is_decided_by_somebody",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("max_epsilon__gte", 0), ("max_epsilon__lte", 100)),
                        name="raise_epsilon_is_bounded",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("delta__gt", 0), ("delta__lt", 1)),
                        name="raise_delta_is_a_probability",
                    ),
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="subjectgroup",
            constraint=models.UniqueConstraint(
                models.F("collection"), models.F("label"), name="one_subject_group_per_label"
            ),
        ),
        migrations.AddConstraint(
            model_name="reservation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("delta__gt", 0),
                    (
                        "delta__lt",
                        django.db.models.expressions.CombinedExpression(
                            models.Value(1.0, output_field=models.FloatField()),
                            "/",
                            models.F("units"),
                        ),
                    ),
                    ("units__gt", 0),
                ),
                name="reservation_delta_below_one_over_n",
            ),
        ),
        migrations.AddConstraint(
            model_name="reservation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("budget_delta__gte", models.F("delta")),
                    (
                        "budget_delta__lt",
                        django.db.models.expressions.CombinedExpression(
                            models.Value(1.0, output_field=models.FloatField()),
                            "/",
                            models.F("units"),
                        ),
                    ),
                ),
                name="reservation_budget_delta_below_one_over_n",
            ),
        ),
        migrations.AddConstraint(
            model_name="reservation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("closed_at__isnull", True), ("spent__isnull", True), ("state", "open")
                    ),
                    models.Q(
                        ("closed_at__isnull", False), ("spent__isnull", True), ("state", "void")
                    ),
                    models.Q(
                        ("closed_at__isnull", False), ("spent__isnull", False), ("state", "settled")
                    ),
                    _connector="OR",
                ),
                name="reservation_closed_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="reservation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("epsilon__gte", 0),
                    ("epsilon__lte", 100),
                    ("total_epsilon__gte", 0),
                    ("total_epsilon__lte", 100),
                ),
                name="reservation_epsilon_is_a_number",
            ),
        ),
        migrations.RunSQL(RIGHTS),
        migrations.RunSQL(BUDGETS),
        migrations.RunSQL(POLICIES),
    ]
