"""Images have parts unless a collection is opened without; how many rows are whole images."""

from django.db import migrations, models

COUNTS = """
CREATE OR REPLACE FUNCTION cloister_count_vectors() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO retrieval_indexpart AS part
            (collection_id, encoder_id, rows, images, removed, ef_search)
            SELECT collection_id, encoder_id, count(*), count(*) FILTER (WHERE region = 0), 0, 100
            FROM changed GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (collection_id, encoder_id) DO UPDATE
                SET rows = part.rows + excluded.rows, images = part.images + excluded.images;
    ELSE
        -- An update leaves a dead vector behind as well.
        UPDATE retrieval_indexpart part
            SET rows = part.rows - CASE TG_OP WHEN 'DELETE' THEN gone.n ELSE 0 END,
                images = part.images - CASE TG_OP WHEN 'DELETE' THEN gone.whole ELSE 0 END,
                removed = part.removed + gone.n
            FROM (SELECT collection_id, encoder_id, count(*) AS n,
                         count(*) FILTER (WHERE region = 0) AS whole
                  FROM changed GROUP BY 1, 2) AS gone
            WHERE part.collection_id = gone.collection_id AND part.encoder_id = gone.encoder_id;
    END IF;
    RETURN NULL;
END $$;

-- The owner too is held by the policies of this table, and none lets it count what is there.
ALTER TABLE retrieval_embedding NO FORCE ROW LEVEL SECURITY;
UPDATE retrieval_indexpart part SET images = whole.n
    FROM (SELECT collection_id, encoder_id, count(*) AS n FROM retrieval_embedding
          WHERE region = 0 GROUP BY 1, 2) AS whole
    WHERE part.collection_id = whole.collection_id AND part.encoder_id = whole.encoder_id;
ALTER TABLE retrieval_embedding FORCE ROW LEVEL SECURITY;
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0029_reports")]

    operations = [
        # Of collections to come: those that are there keep what they chose.
        migrations.AlterField(
            "collection",
            "finds_parts",
            models.BooleanField(
                default=True,
                help_text="Find small things in large pictures: four parts of each image that is large enough (373 pixels a side for the embedded encoder), and what an added detector of objects sees, get vectors of their own. Encoding these takes five to nine times as long, and the index as much more space. Images that are there already get theirs, or lose them, by `encoder fill`; `encoder list` tells how many have them.",
            ),
        ),
        migrations.AddField(
            "indexpart",
            "images",
            models.BigIntegerField(default=0, help_text="Vectors of whole images."),
            preserve_default=False,
        ),
        migrations.RunSQL(COUNTS, migrations.RunSQL.noop),
    ]
