"""Roles, row-level security, the partitioned embedding table and the append-only log.

Everything here is what Django's schema editor cannot say. The owner runs it; the web and worker
roles it makes own nothing, are not superusers and cannot step around row-level security. They
get a password where they are to sign in (`manage.py prepare_database`).
"""

from django.db import migrations

ROLES = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloister_web') THEN
        CREATE ROLE cloister_web NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloister_worker') THEN
        CREATE ROLE cloister_worker NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOLOGIN;
    END IF;
    -- A temporary table or function of a role must never stand before one of ours.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END $$;

-- A forgotten transaction must not hold the log's head, or anything else, for ever.
ALTER ROLE cloister_web SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE cloister_worker SET idle_in_transaction_session_timeout = '60s';

GRANT USAGE ON SCHEMA public TO cloister_web, cloister_worker;

GRANT SELECT ON django_migrations, django_content_type, auth_permission TO cloister_web;
GRANT SELECT ON django_migrations TO cloister_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    auth_group, auth_group_permissions, django_session, django_admin_log,
    retrieval_user, retrieval_user_groups, retrieval_user_user_permissions, retrieval_grant
    TO cloister_web;
GRANT SELECT, INSERT, UPDATE ON
    retrieval_collection, retrieval_privacyprofile, retrieval_importbatch, retrieval_work
    TO cloister_web;
GRANT SELECT ON retrieval_encoderversion TO cloister_web;
GRANT SELECT, INSERT ON retrieval_image, retrieval_subject TO cloister_web;
GRANT UPDATE (state, reason, indexed_at) ON retrieval_image TO cloister_web;
GRANT SELECT ON retrieval_auditevent TO cloister_web;

GRANT SELECT ON retrieval_collection, retrieval_privacyprofile, retrieval_importbatch
    TO cloister_worker;
GRANT SELECT, INSERT ON retrieval_encoderversion TO cloister_worker;
GRANT UPDATE (live) ON retrieval_encoderversion TO cloister_worker;
GRANT SELECT, UPDATE ON retrieval_image TO cloister_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval_work TO cloister_worker;
"""

# A text that is no number must mean "no context" rather than an error that names it.
CONTEXT = r"""
CREATE FUNCTION cloister_context_id(name text) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN current_setting('cloister.' || name, true) ~ '^[0-9]{1,18}$'
                THEN current_setting('cloister.' || name, true)::bigint END
$$;

CREATE FUNCTION cloister_granted(roles text[]) RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT g.collection_id), '{}')
    FROM retrieval_user u
    JOIN retrieval_grant g
      ON g.user_id = u.id
      OR g.group_id IN (SELECT m.group_id FROM retrieval_user_groups m WHERE m.user_id = u.id)
    JOIN retrieval_collection c ON c.id = g.collection_id
    WHERE u.id = cloister_context_id('actor')
      AND u.is_active
      AND g.role = ANY (roles)
      AND current_setting('cloister.purpose', true) = ANY (g.purposes)
      AND current_setting('cloister.purpose', true) = ANY (c.purposes)
      AND g.valid_from <= clock_timestamp()
      AND (g.valid_until IS NULL OR g.valid_until > clock_timestamp())
$$;

CREATE FUNCTION cloister_may_read_log() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM retrieval_user u
        WHERE u.id = cloister_context_id('actor') AND u.is_active AND (
            u.is_superuser
            OR EXISTS (
                SELECT FROM auth_permission p
                JOIN django_content_type t ON t.id = p.content_type_id
                WHERE t.app_label = 'retrieval' AND p.codename = 'view_auditevent' AND (
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
"""

EMBEDDING = """
CREATE TABLE retrieval_embedding (
    collection_id bigint NOT NULL REFERENCES retrieval_collection (id),
    image_id uuid NOT NULL REFERENCES retrieval_image (id) ON DELETE CASCADE,
    encoder_id bigint NOT NULL REFERENCES retrieval_encoderversion (id),
    region smallint NOT NULL CHECK (region >= 0),
    vector halfvec NOT NULL,
    PRIMARY KEY (collection_id, image_id, encoder_id, region)
) PARTITION BY LIST (collection_id);
ALTER TABLE retrieval_embedding ALTER COLUMN vector SET STORAGE PLAIN;
GRANT SELECT ON retrieval_embedding TO cloister_web;
GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval_embedding TO cloister_worker;

CREATE FUNCTION cloister_open_index(collection_id bigint, encoder_id bigint, dimensions integer)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS %I ON public.%I USING hnsw ((vector::halfvec(%s)) halfvec_cosine_ops)
         WITH (m = 16, ef_construction = 128) WHERE encoder_id = %s',
        format('retrieval_embedding_c%s_e%s', collection_id, encoder_id),
        format('retrieval_embedding_c%s', collection_id), dimensions, encoder_id);
END $$;

-- A partition is reached through its parent only: it has row-level security and no policy.
CREATE FUNCTION cloister_open_partition() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    partition text := format('retrieval_embedding_c%s', NEW.id);
BEGIN
    EXECUTE format('CREATE TABLE public.%I PARTITION OF retrieval_embedding FOR VALUES IN (%s)',
                   partition, NEW.id);
    EXECUTE format('ALTER TABLE public.%I ALTER COLUMN vector SET STORAGE PLAIN', partition);
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', partition);
    EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', partition);
    PERFORM cloister_open_index(NEW.id, e.id, e.dimensions) FROM retrieval_encoderversion e;
    RETURN NEW;
END $$;
CREATE TRIGGER collection_opens_its_partition AFTER INSERT ON retrieval_collection
    FOR EACH ROW EXECUTE FUNCTION cloister_open_partition();

CREATE FUNCTION cloister_open_indexes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM cloister_open_index(c.id, NEW.id, NEW.dimensions) FROM retrieval_collection c;
    RETURN NEW;
END $$;
CREATE TRIGGER encoder_opens_its_indexes AFTER INSERT ON retrieval_encoderversion
    FOR EACH ROW EXECUTE FUNCTION cloister_open_indexes();
"""

# The scalar sub-select makes each policy's function run once per statement, not once per row.
POLICIES = """
DO $$
DECLARE
    name text;
    anybody text := '{viewer,searcher,curator,reviewer,owner}';
BEGIN
    FOREACH name IN ARRAY ARRAY['retrieval_image', 'retrieval_subject', 'retrieval_importbatch',
                                'retrieval_work', 'retrieval_embedding', 'retrieval_auditevent']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    END LOOP;

    FOREACH name IN ARRAY ARRAY['retrieval_image', 'retrieval_subject', 'retrieval_importbatch',
                                'retrieval_work']
    LOOP
        EXECUTE format(
            'CREATE POLICY reads ON %I FOR SELECT TO cloister_web
             USING (collection_id = ANY ((SELECT cloister_granted(%L))::bigint[]))', name, anybody);
    END LOOP;

    FOREACH name IN ARRAY ARRAY['retrieval_image', 'retrieval_subject', 'retrieval_importbatch']
    LOOP
        EXECUTE format(
            'CREATE POLICY ingests ON %I FOR INSERT TO cloister_web
             WITH CHECK (collection_id = ANY ((SELECT cloister_granted(%L))::bigint[]))',
            name, '{curator,owner}');
        EXECUTE format(
            'CREATE POLICY curates ON %I FOR UPDATE TO cloister_web
             USING (collection_id = ANY ((SELECT cloister_granted(%L))::bigint[]))',
            name, '{curator,reviewer,owner}');
        EXECUTE format(
            'CREATE POLICY works ON %I FOR ALL TO cloister_worker
             USING (collection_id = (SELECT cloister_context_id(%L)))', name, 'collection');
    END LOOP;
END $$;

CREATE POLICY orders ON retrieval_work FOR INSERT TO cloister_web
    WITH CHECK (collection_id = ANY ((SELECT cloister_granted('{curator,reviewer,owner}'))::bigint[]));
CREATE POLICY reorders ON retrieval_work FOR UPDATE TO cloister_web
    USING (collection_id = ANY ((SELECT cloister_granted('{curator,reviewer,owner}'))::bigint[]));
-- Work rows hold ids and times only, and the reconciler must see all that is due.
CREATE POLICY works ON retrieval_work FOR ALL TO cloister_worker USING (true);

CREATE POLICY searches ON retrieval_embedding FOR SELECT TO cloister_web
    USING (collection_id = ANY ((SELECT cloister_granted('{searcher,curator,owner}'))::bigint[]));
CREATE POLICY works ON retrieval_embedding FOR ALL TO cloister_worker
    USING (collection_id = (SELECT cloister_context_id('collection')));
"""

LOG = r"""
CREATE TABLE retrieval_audithead (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number bigint NOT NULL,
    entry_hash bytea NOT NULL
);
INSERT INTO retrieval_audithead (number, entry_hash) VALUES (0, sha256('cloister audit log'));
GRANT SELECT ON retrieval_audithead TO cloister_web;

CREATE POLICY auditors_read ON retrieval_auditevent FOR SELECT TO cloister_web
    USING ((SELECT cloister_may_read_log()));
CREATE POLICY appends ON retrieval_auditevent FOR INSERT TO CURRENT_USER WITH CHECK (true);

-- The head's row lock puts concurrent writers in one line, so the chain cannot fork.
CREATE FUNCTION cloister_audit_append(kind text, actor bigint, purpose text, details text)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    head retrieval_audithead%ROWTYPE;
    next_number bigint;
    at timestamptz;
    entry bytea;
BEGIN
    IF concat(kind, purpose, details) ~ '\n' THEN
        RAISE EXCEPTION 'an audit entry is one line per field';
    END IF;
    SELECT * INTO STRICT head FROM retrieval_audithead FOR UPDATE;
    next_number := head.number + 1;
    at := clock_timestamp();
    entry := sha256(head.entry_hash || convert_to(concat_ws(E'\n',
        next_number, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        kind, coalesce(actor::text, ''), purpose, details), 'UTF8'));
    INSERT INTO retrieval_auditevent
        (number, occurred_at, kind, actor_id, purpose, details, previous_hash, entry_hash)
        VALUES (next_number, at, kind, actor, purpose, details, head.entry_hash, entry);
    UPDATE retrieval_audithead SET number = next_number, entry_hash = entry;
    RETURN next_number;
END $$;

CREATE FUNCTION cloister_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON retrieval_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION cloister_refuse_change();
"""


# Functions are open to everybody unless said otherwise.
EXECUTION = """
REVOKE EXECUTE ON FUNCTION
    cloister_context_id, cloister_granted, cloister_may_read_log, cloister_open_index,
    cloister_open_partition, cloister_open_indexes, cloister_audit_append, cloister_refuse_change
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloister_context_id, cloister_audit_append
    TO cloister_web, cloister_worker;
GRANT EXECUTE ON FUNCTION cloister_granted, cloister_may_read_log TO cloister_web;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("retrieval", "0001_initial"),
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("sessions", "0001_initial"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.RunSQL("CREATE EXTENSION IF NOT EXISTS vector"),
        migrations.RunSQL(ROLES),
        migrations.RunSQL(CONTEXT),
        migrations.RunSQL(EMBEDDING),
        migrations.RunSQL(POLICIES),
        migrations.RunSQL(LOG),
        migrations.RunSQL(EXECUTION),
    ]
