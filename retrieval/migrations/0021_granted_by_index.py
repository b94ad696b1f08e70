"""Which collections are granted is asked by every policy of every statement: by index now."""

from django.db import migrations

# As before (migration 0016), but a user's own grants and the groups' are looked up one after the
# other, where one condition for both read every grant there is; and in PL/pgSQL, which keeps the
# plan for the session in every version of PostgreSQL.
GRANTED = """
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
          AND (u.responsible_id IS NULL OR cloister_token_opens(g.collection_id, roles))
          AND g.role = ANY (roles)
          AND current_setting('cloister.purpose', true) = ANY (g.purposes)
          AND current_setting('cloister.purpose', true) = ANY (c.purposes)
          AND g.valid_from <= clock_timestamp()
          AND (g.valid_until IS NULL OR g.valid_until > clock_timestamp())
    );
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0020_uploads")]

    operations = [migrations.RunSQL(GRANTED)]
