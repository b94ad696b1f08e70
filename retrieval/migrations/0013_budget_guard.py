"""The ledger keeps its own rules, whoever writes: a reservation is added, claimed, resumed once
and closed once, by the training it is of; and who approves a raise is somebody else than who
proposed it, by more than a name."""

import django.contrib.postgres.fields
from django.db import migrations, models

GUARD = """
-- Not SECURITY DEFINER: who writes reads the budget of the same collection.
CREATE FUNCTION cloister_guard_reservation() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    planned bigint;
    ran bigint;
BEGIN
    IF TG_OP = 'DELETE' OR TG_OP = 'TRUNCATE' THEN
        RAISE check_violation USING MESSAGE = 'what was reserved stays in the ledger';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'open' OR NEW.spent IS NOT NULL OR NEW.resumed_at IS NOT NULL
           OR NEW.steps_claimed <> 0 OR NEW.closed_event IS NOT NULL THEN
            RAISE check_violation USING MESSAGE = 'a training begins with all of its plan charged';
        END IF;
        IF NOT EXISTS (SELECT FROM retrieval_budget b WHERE b.collection_id = NEW.collection_id
                       AND b.delta = NEW.budget_delta
                       AND greatest(NEW.epsilon, NEW.total_epsilon) <= b.max_epsilon) THEN
            RAISE check_violation USING MESSAGE = 'the budget does not allow this training';
        END IF;
        RETURN NEW;
    END IF;
    IF current_setting('cloister.training', true) IS DISTINCT FROM OLD.id::text THEN
        RAISE check_violation USING MESSAGE = 'it is another training''s reservation';
    END IF;
    IF OLD.state <> 'open' THEN
        RAISE check_violation USING MESSAGE = 'a reservation is closed once';
    END IF;
    IF (NEW.id, NEW.collection_id, NEW.subject_group_id, NEW.unit, NEW.units, NEW.plan, NEW.delta,
        NEW.budget_delta, NEW.total_epsilon, NEW.reserved_by_id, NEW.reserved_at,
        NEW.reserved_event)
       IS DISTINCT FROM
       (OLD.id, OLD.collection_id, OLD.subject_group_id, OLD.unit, OLD.units, OLD.plan, OLD.delta,
        OLD.budget_delta, OLD.total_epsilon, OLD.reserved_by_id, OLD.reserved_at,
        OLD.reserved_event) THEN
        RAISE check_violation USING MESSAGE = 'what was reserved stays as it is';
    END IF;
    SELECT sum(p.steps) INTO planned FROM jsonb_to_recordset(OLD.plan) AS p(steps bigint);
    IF NEW.state = 'open' THEN
        IF (NEW.spent, NEW.epsilon, NEW.closed_total_epsilon, NEW.closed_event)
           IS DISTINCT FROM (OLD.spent, OLD.epsilon, OLD.closed_total_epsilon, OLD.closed_event)
           OR NEW.steps_claimed < OLD.steps_claimed OR NEW.steps_claimed > planned
           OR (OLD.resumed_at IS NOT NULL AND NEW.resumed_at IS DISTINCT FROM OLD.resumed_at) THEN
            RAISE check_violation USING MESSAGE = 'a training claims its steps and resumes once';
        END IF;
        RETURN NEW;
    END IF;
    IF (NEW.steps_claimed, NEW.resumed_at) IS DISTINCT FROM (OLD.steps_claimed, OLD.resumed_at)
       OR NEW.closed_total_epsilon IS NULL OR NEW.closed_event IS NULL
       OR NEW.epsilon > OLD.epsilon THEN
        RAISE check_violation USING MESSAGE = 'closing changes what is charged, and nothing else';
    END IF;
    IF NEW.state = 'settled' THEN
        SELECT coalesce(sum(s.steps), 0) INTO ran
            FROM jsonb_to_recordset(NEW.spent) AS s(steps bigint);
        IF EXISTS (
            SELECT FROM (
                SELECT noise_multiplier, sample_rate, sum(steps) AS steps, min(steps) AS least
                FROM jsonb_to_recordset(NEW.spent)
                    AS s(noise_multiplier float8, sample_rate float8, steps bigint)
                GROUP BY 1, 2
            ) s LEFT JOIN (
                SELECT noise_multiplier, sample_rate, sum(steps) AS steps
                FROM jsonb_to_recordset(OLD.plan)
                    AS p(noise_multiplier float8, sample_rate float8, steps bigint)
                GROUP BY 1, 2
            ) p USING (noise_multiplier, sample_rate)
            WHERE s.least < 1 OR s.steps > coalesce(p.steps, 0)
        ) OR ran < OLD.steps_claimed THEN
            RAISE check_violation USING MESSAGE = 'what ran is part of the plan, no step left out';
        END IF;
    END IF;
    -- All of the plan costs what all of the plan cost.
    IF (NEW.state = 'void' OR ran = planned) AND NEW.epsilon IS DISTINCT FROM OLD.epsilon THEN
        RAISE check_violation USING MESSAGE = 'the whole plan is charged in full';
    END IF;
    RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION cloister_guard_reservation FROM PUBLIC;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON retrieval_reservation
    FOR EACH ROW EXECUTE FUNCTION cloister_guard_reservation();
CREATE TRIGGER guard_all BEFORE TRUNCATE ON retrieval_reservation
    FOR EACH STATEMENT EXECUTE FUNCTION cloister_guard_reservation();

-- Policies of one command are alternatives: two of them let "resumes" in through "closes".
DROP POLICY closes ON retrieval_reservation;
DROP POLICY resumes ON retrieval_reservation;
CREATE POLICY trains ON retrieval_reservation FOR UPDATE TO cloister_worker
    USING (collection_id = (SELECT cloister_context_id('collection')) AND state = 'open')
    WITH CHECK (collection_id = (SELECT cloister_context_id('collection')));
GRANT UPDATE (steps_claimed) ON retrieval_reservation TO cloister_worker;

-- Who reads the log holds the ledger against it: numbers and ids, the same as on the log.
CREATE POLICY auditors_read ON retrieval_budget FOR SELECT TO cloister_web
    USING ((SELECT cloister_may_read_log()));
CREATE POLICY auditors_read ON retrieval_reservation FOR SELECT TO cloister_web
    USING ((SELECT cloister_may_read_log()));
"""

SECOND_PERSON = """
CREATE POLICY second_person ON retrieval_auditevent FOR SELECT TO CURRENT_USER
    USING (kind = 'user.changed');

CREATE FUNCTION cloister_note_officers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    NEW.may_approve := ARRAY(
        SELECT u.id FROM retrieval_user u
        WHERE u.id <> NEW.proposed_by_id AND cloister_holds_right(u.id, '{change_budget}')
        ORDER BY u.id
    );
    RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION cloister_note_officers FROM PUBLIC;
CREATE TRIGGER note_officers BEFORE INSERT ON retrieval_budgetproposal
    FOR EACH ROW EXECUTE FUNCTION cloister_note_officers();

-- The entry's details are JSON of our own, but whoever appends could write anything: no cast.
CREATE FUNCTION cloister_is_second_person(proposal bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM retrieval_budgetproposal p, cloister_context_id('actor') AS approver
        WHERE p.id = proposal AND p.proposed_by_id <> approver AND approver = ANY (p.may_approve)
          AND NOT EXISTS (
              SELECT FROM retrieval_auditevent e
              WHERE e.kind = 'user.changed' AND (
                  (e.actor_id = p.proposed_by_id
                   AND e.details ~ concat('"user":', approver, '[,}]'))
                  OR (e.actor_id = approver
                      AND e.details ~ concat('"user":', p.proposed_by_id, '[,}]'))
              )
          )
    )
$$;
REVOKE EXECUTE ON FUNCTION cloister_is_second_person FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_is_second_person TO cloister_web;

-- As in migration 0004, and the second one is a person of their own.
CREATE OR REPLACE FUNCTION cloister_approve_raise(proposal bigint) RETURNS boolean
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
    IF NOT cloister_is_second_person(proposal) THEN
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
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0012_filters")]

    operations = [
        migrations.AddField(
            "budgetproposal",
            "may_approve",
            django.contrib.postgres.fields.ArrayField(
                base_field=models.BigIntegerField(),
                default=list,
                help_text="Who else held the right when it was asked for. Written by the database.",
                size=None,
            ),
        ),
        migrations.AddField(
            "reservation",
            "steps_claimed",
            models.PositiveIntegerField(
                default=0,
                help_text="Steps that may have touched the data: noted before they are taken.",
            ),
        ),
        migrations.RunSQL(GUARD),
        migrations.RunSQL(SECOND_PERSON),
    ]
