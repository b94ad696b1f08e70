"""The database counts, too: an ε that the mechanisms provably exceed is not written down.

It cannot run the accountants. What it knows is a bound from below, exact where everybody takes
part in every step, as in all that `manage.py finetune` trains.
"""

from django.db import migrations

COUNTED = """
-- Whether these mechanisms give more than δ at an ε one hundredth above the one claimed: the
-- tolerance of the two accountants. erfc(x / √2) / 2 is the normal distribution's upper tail.
CREATE FUNCTION cloister_spends_more(mechanisms jsonb, claimed float8, delta float8)
RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    bound float8 := 1.01 * claimed;
    mu float8;
    kind record;
    spread float8;
    width float8;
BEGIN
    -- What is no mechanism would be left out of both counts below.
    IF EXISTS (
        SELECT FROM jsonb_to_recordset(mechanisms)
            AS m(noise_multiplier float8, sample_rate float8, steps bigint)
        WHERE (m.noise_multiplier > 0 AND m.noise_multiplier < 'Infinity'
               AND m.sample_rate > 0 AND m.sample_rate <= 1 AND m.steps >= 1) IS NOT TRUE
    ) THEN
        RETURN true;
    END IF;
    -- All steps with everybody together are one Gaussian mechanism (Balle and Wang 2018, arXiv
    -- 1805.06530, theorem 8, is exact for it).
    SELECT sqrt(sum(m.steps / m.noise_multiplier ^ 2)) INTO mu
        FROM jsonb_to_recordset(mechanisms)
            AS m(noise_multiplier float8, sample_rate float8, steps bigint)
        WHERE m.sample_rate = 1;
    IF erfc((bound / mu - mu / 2) / sqrt(2.0)) / 2
       - exp(bound) * erfc((bound / mu + mu / 2) / sqrt(2.0)) / 2 > delta THEN
        RETURN true;
    END IF;
    -- Of sampled steps the sum alone, in the direction of one unit: it is Binomial(t, q) + noise
    -- with the unit and noise without. Whoever asks "is it above x?" learns at least that.
    FOR kind IN
        SELECT m.noise_multiplier AS sigma, m.sample_rate AS q, sum(m.steps)::float8 AS t
        FROM jsonb_to_recordset(mechanisms)
            AS m(noise_multiplier float8, sample_rate float8, steps bigint)
        WHERE m.sample_rate < 1 GROUP BY 1, 2
    LOOP
        spread := sqrt(kind.t) * kind.sigma;
        width := sqrt(kind.t * kind.q * (1 - kind.q));
        IF EXISTS (
            WITH times AS (
                SELECT 0::float8 AS k, kind.t * ln(1 - kind.q) AS log_chance
                UNION ALL
                SELECT k, kind.t * ln(1 - kind.q)
                    + sum(ln((kind.t - k + 1) / k * kind.q / (1 - kind.q))) OVER (ORDER BY k)
                FROM generate_series(
                    1, least(kind.t, kind.t * kind.q + 10 * width + 10)::bigint
                ) AS k
            )
            SELECT FROM times, (
                SELECT kind.t * kind.q + (n / 4.0 - 1) * sqrt(spread ^ 2 + width ^ 2) AS x
                FROM generate_series(0, 24) AS n
            ) asked
            WHERE times.log_chance > -600
            GROUP BY asked.x
            HAVING sum(exp(times.log_chance) * erfc((asked.x - times.k) / spread / sqrt(2.0))) / 2
                   - exp(bound) * erfc(asked.x / spread / sqrt(2.0)) / 2 > delta
        ) THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END $$;
REVOKE EXECUTE ON FUNCTION cloister_spends_more FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_spends_more TO cloister_worker;

-- Not SECURITY DEFINER: who writes reads the reservations of the same collection.
CREATE FUNCTION cloister_count_reservation() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- Whoever reserves past `retrieval.budget` waits for the others, too.
        PERFORM cloister_lock_budget(NEW.collection_id);
    ELSIF NEW.state = 'open' THEN
        RETURN NEW;
    END IF;
    IF cloister_spends_more(
        CASE NEW.state WHEN 'settled' THEN NEW.spent ELSE NEW.plan END, NEW.epsilon, NEW.delta
    ) THEN
        RAISE check_violation USING MESSAGE = 'the mechanisms spend more than is charged';
    END IF;
    -- A subject is exposed to what ran on all, and to what ran on its own group.
    IF EXISTS (
        WITH charged AS (
            SELECT r.subject_group_id AS of_group,
                   CASE r.state WHEN 'settled' THEN r.spent ELSE r.plan END AS mechanisms
            FROM retrieval_reservation r
            WHERE r.collection_id = NEW.collection_id AND r.id <> NEW.id
            UNION ALL
            SELECT NEW.subject_group_id,
                   CASE NEW.state WHEN 'settled' THEN NEW.spent ELSE NEW.plan END
        )
        SELECT FROM (SELECT DISTINCT of_group FROM charged) g
        WHERE cloister_spends_more(
            (SELECT jsonb_agg(m) FROM charged c, jsonb_array_elements(c.mechanisms) AS m
             WHERE c.of_group IS NULL OR c.of_group = g.of_group),
            coalesce(NEW.closed_total_epsilon, NEW.total_epsilon), NEW.budget_delta
        )
    ) THEN
        RAISE check_violation USING MESSAGE = 'all trainings together spend more than is charged';
    END IF;
    RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION cloister_count_reservation FROM PUBLIC;
-- After "guard": triggers of a row run in the order of their names.
CREATE TRIGGER "guard count" BEFORE INSERT OR UPDATE ON retrieval_reservation
    FOR EACH ROW EXECUTE FUNCTION cloister_count_reservation();
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0027_holds")]

    operations = [migrations.RunSQL(COUNTED)]
