"""Who may train on a collection, asked by a worker; and an interrupted training resumes once."""

from django.db import migrations, models

TRAINING = """
-- The worker's role reads neither users nor grants; it learns one id, of whom it names.
CREATE FUNCTION cloister_trainer(named text, of_collection bigint) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT u.id
    FROM retrieval_user u
    WHERE u.username = named AND u.is_active AND EXISTS (
        SELECT FROM retrieval_grant g JOIN retrieval_collection c ON c.id = g.collection_id
        WHERE c.id = of_collection
          AND (g.user_id = u.id
               OR g.group_id IN (SELECT m.group_id FROM retrieval_user_groups m
                                 WHERE m.user_id = u.id))
          AND g.role IN ('curator', 'owner')
          AND 'HSYSADMIN' = ANY (g.purposes)
          AND 'HSYSADMIN' = ANY (c.purposes)
          AND g.valid_from <= clock_timestamp()
          AND (g.valid_until IS NULL OR g.valid_until > clock_timestamp())
    )
$$;
REVOKE EXECUTE ON FUNCTION cloister_trainer FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_trainer TO cloister_worker;

-- Still open afterwards, and with a time: that it happens once is asked in budget.resume.
CREATE POLICY resumes ON retrieval_reservation FOR UPDATE TO cloister_worker
    USING (collection_id = (SELECT cloister_context_id('collection')) AND state = 'open'
           AND resumed_at IS NULL)
    WITH CHECK (state = 'open' AND resumed_at IS NOT NULL);
GRANT UPDATE (resumed_at) ON retrieval_reservation TO cloister_worker;
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0009_video_frames")]

    operations = [
        migrations.AddField(
            "reservation",
            "resumed_at",
            models.DateTimeField(
                help_text="When an interrupted training went on: once at most.", null=True
            ),
        ),
        migrations.RunSQL(TRAINING),
    ]
