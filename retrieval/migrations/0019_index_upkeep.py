"""What each partition holds is counted as it changes; its index is built when there is a use."""

import django.db.models.deletion
from django.db import migrations, models

PROTECTION = """
ALTER TABLE retrieval_indexpart ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_indexpart FORCE ROW LEVEL SECURITY;
-- The owner's functions below are held by row-level security like everybody.
CREATE POLICY functions ON retrieval_indexpart FOR ALL TO CURRENT_USER USING (true);
-- How much there is, is told like what there is.
CREATE POLICY searches ON retrieval_indexpart FOR SELECT TO cloister_web
    USING (collection_id = ANY ((SELECT cloister_granted('{searcher,curator,owner}'))::bigint[]));
CREATE POLICY works ON retrieval_indexpart FOR ALL TO cloister_worker
    USING (collection_id = (SELECT cloister_context_id('collection')));
GRANT SELECT ON retrieval_indexpart TO cloister_web, cloister_worker;
GRANT UPDATE (ef_search, recall, checked_at) ON retrieval_indexpart TO cloister_worker;
GRANT UPDATE (retired_at) ON retrieval_encoderversion TO cloister_worker;
"""

# A statement at a time: a bulk load counts once, and so does a cascade.
COUNTS = """
CREATE FUNCTION cloister_count_vectors() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO retrieval_indexpart AS part
            (collection_id, encoder_id, rows, removed, ef_search)
            SELECT collection_id, encoder_id, count(*), 0, 100
            FROM changed GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (collection_id, encoder_id) DO UPDATE SET rows = part.rows + excluded.rows;
    ELSE
        -- An update leaves a dead vector behind as well.
        UPDATE retrieval_indexpart part
            SET rows = part.rows - CASE TG_OP WHEN 'DELETE' THEN gone.n ELSE 0 END,
                removed = part.removed + gone.n
            FROM (SELECT collection_id, encoder_id, count(*) AS n
                  FROM changed GROUP BY 1, 2) AS gone
            WHERE part.collection_id = gone.collection_id AND part.encoder_id = gone.encoder_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER counts_inserted AFTER INSERT ON retrieval_embedding
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION cloister_count_vectors();
CREATE TRIGGER counts_updated AFTER UPDATE ON retrieval_embedding
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION cloister_count_vectors();
CREATE TRIGGER counts_deleted AFTER DELETE ON retrieval_embedding
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION cloister_count_vectors();

-- The owner too is held by the policies of this table, and none lets it count what is there.
ALTER TABLE retrieval_embedding NO FORCE ROW LEVEL SECURITY;
INSERT INTO retrieval_indexpart (collection_id, encoder_id, rows, removed, ef_search)
    SELECT collection_id, encoder_id, count(*), 0, 100 FROM retrieval_embedding GROUP BY 1, 2;
ALTER TABLE retrieval_embedding FORCE ROW LEVEL SECURITY;
"""

# The worker asks; what is done, and to which partition, is decided here.
UPKEEP = """
DROP TRIGGER encoder_opens_its_indexes ON retrieval_encoderversion;
DROP FUNCTION cloister_open_indexes();
DROP FUNCTION cloister_open_index(bigint, bigint, integer);

CREATE FUNCTION cloister_require_collection(collection bigint) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF collection IS DISTINCT FROM cloister_context_id('collection') THEN
        RAISE insufficient_privilege USING MESSAGE = 'another collection is being processed';
    END IF;
END $$;

CREATE FUNCTION cloister_build_index(collection bigint, encoder bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    size integer;
BEGIN
    PERFORM cloister_require_collection(collection);
    SELECT dimensions INTO STRICT size FROM retrieval_encoderversion WHERE id = encoder;
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS %I ON public.%I USING hnsw ((vector::halfvec(%s)) halfvec_cosine_ops)
         WITH (m = 16, ef_construction = 128) WHERE encoder_id = %s',
        format('retrieval_embedding_c%s_e%s', collection, encoder),
        format('retrieval_embedding_c%s', collection), size, encoder);
    UPDATE retrieval_indexpart SET removed = 0
        WHERE collection_id = collection AND encoder_id = encoder;
END $$;

CREATE FUNCTION cloister_drop_index(collection bigint, encoder bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM cloister_require_collection(collection);
    EXECUTE format('DROP INDEX IF EXISTS public.%I',
                   format('retrieval_embedding_c%s_e%s', collection, encoder));
END $$;

-- What a REINDEX CONCURRENTLY that was cut short leaves behind is kept up at every insert.
CREATE FUNCTION cloister_drop_broken_indexes(collection bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    broken regclass;
    dropped integer := 0;
BEGIN
    PERFORM cloister_require_collection(collection);
    FOR broken IN SELECT indexrelid FROM pg_index
        WHERE indrelid = format('public.retrieval_embedding_c%s', collection)::regclass
          AND NOT indisvalid
    LOOP
        EXECUTE format('DROP INDEX %s', broken);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

CREATE FUNCTION cloister_note_rebuilt(collection bigint, encoder bigint, dead bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM cloister_require_collection(collection);
    UPDATE retrieval_indexpart SET removed = greatest(removed - dead, 0)
        WHERE collection_id = collection AND encoder_id = encoder;
END $$;

-- Only this partition is locked: who searches elsewhere does not notice.
CREATE FUNCTION cloister_empty_partition(collection bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM cloister_require_collection(collection);
    EXECUTE format('TRUNCATE public.%I', format('retrieval_embedding_c%s', collection));
    DELETE FROM retrieval_indexpart WHERE collection_id = collection;
END $$;

CREATE OR REPLACE FUNCTION cloister_open_partition() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    partition text := format('retrieval_embedding_c%s', NEW.id);
BEGIN
    EXECUTE format('CREATE TABLE public.%I PARTITION OF retrieval_embedding FOR VALUES IN (%s)',
                   partition, NEW.id);
    EXECUTE format('ALTER TABLE public.%I ALTER COLUMN vector SET STORAGE PLAIN', partition);
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', partition);
    EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', partition);
    PERFORM cloister_let_maintain(partition);
    RETURN NEW;
END $$;

-- MAINTAIN (from PostgreSQL 17 on) rebuilds and vacuums, and reads nothing.
CREATE FUNCTION cloister_let_maintain(partition text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT MAINTAIN ON public.%I TO cloister_worker', partition);
END $$;
SELECT cloister_let_maintain(format('retrieval_embedding_c%s', id)) FROM retrieval_collection;

REVOKE EXECUTE ON FUNCTION
    cloister_count_vectors, cloister_require_collection, cloister_build_index,
    cloister_drop_index, cloister_drop_broken_indexes, cloister_note_rebuilt,
    cloister_empty_partition, cloister_let_maintain
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    cloister_build_index, cloister_drop_index, cloister_drop_broken_indexes,
    cloister_note_rebuilt, cloister_empty_partition
    TO cloister_worker;

-- A query whose asker is gone is ended by the server.
ALTER ROLE cloister_web SET client_connection_check_interval = '1s';
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0018_sign_in")]

    operations = [
        migrations.AddField(
            "encoderversion",
            "retired_at",
            models.DateTimeField(
                null=True, help_text="When its vectors were dropped; the row stays for the record."
            ),
        ),
        migrations.CreateModel(
            name="IndexPart",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "collection_id",
                        "encoder_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "collection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="retrieval.collection"
                    ),
                ),
                (
                    "encoder",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="retrieval.encoderversion"
                    ),
                ),
                ("rows", models.BigIntegerField(help_text="Vectors, of regions too.")),
                (
                    "removed",
                    models.BigIntegerField(
                        default=0, help_text="Deleted or replaced since the index was built."
                    ),
                ),
                ("ef_search", models.PositiveSmallIntegerField(default=100)),
                (
                    "recall",
                    models.FloatField(
                        null=True, help_text="Recall@10 against an exact scan, on a sample."
                    ),
                ),
                ("checked_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.RunSQL(PROTECTION),
        migrations.RunSQL(COUNTS),
        migrations.RunSQL(UPKEEP),
    ]
