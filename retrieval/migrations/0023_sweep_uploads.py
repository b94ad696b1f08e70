"""Uploads that nobody went on with are swept, whether or not their account comes again."""

from django.db import migrations

# An hour after it expired nobody is reading its parts any more.
SWEEP = """
CREATE POLICY functions ON retrieval_upload FOR ALL TO CURRENT_USER USING (true);

CREATE FUNCTION cloister_sweep_uploads() RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    DELETE FROM retrieval_upload
    WHERE expires_at <= clock_timestamp() - interval '1 hour'
    RETURNING id
$$;

REVOKE EXECUTE ON FUNCTION cloister_sweep_uploads FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_sweep_uploads TO cloister_worker;
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0022_predecessors")]

    operations = [migrations.RunSQL(SWEEP)]
