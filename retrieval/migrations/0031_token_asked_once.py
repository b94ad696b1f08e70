"""What a token opens is asked once a statement, where it was asked of every grant."""

from django.db import migrations

# The conditions of migration 0016, for all its collections at once.
OPENS = """
CREATE FUNCTION cloister_token_opens(roles text[]) RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(array_agg(opened), '{}')
    FROM cloister_token() t, unnest(t.collections) AS opened
    WHERE current_setting('cloister.purpose', true) = ANY (t.purposes)
      AND CASE WHEN 'viewer' = ANY (roles) THEN true
               WHEN 'searcher' = ANY (roles) THEN 'search' = ANY (t.scopes)
               WHEN 'curator' = ANY (roles) THEN 'ingest' = ANY (t.scopes)
               ELSE false END
$$;
REVOKE EXECUTE ON FUNCTION cloister_token_opens(text[]) FROM PUBLIC;
"""

# As in migration 0027 but for the token.
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
          AND NOT cloister_held(u.id)
          AND (u.responsible_id IS NULL
               OR g.collection_id = ANY ((SELECT cloister_token_opens(roles))::bigint[]))
          AND g.role = ANY (roles)
          AND current_setting('cloister.purpose', true) = ANY (g.purposes)
          AND current_setting('cloister.purpose', true) = ANY (c.purposes)
          AND g.valid_from <= clock_timestamp()
          AND (g.valid_until IS NULL OR g.valid_until > clock_timestamp())
    );
END $$;
DROP FUNCTION cloister_token_opens(bigint, text[]);
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0030_parts_by_default")]

    operations = [migrations.RunSQL(OPENS), migrations.RunSQL(GRANTED)]
