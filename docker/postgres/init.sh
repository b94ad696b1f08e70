#!/bin/sh
# Run once by the database image, as its superuser, on an empty data folder: the owner's role and
# database. The web and worker roles are the owner's matter (manage.py prepare_database).
set -eu

# psql reads the password itself: it is never an argument that a process list would show.
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 \
     -v password_file="${OWNER_PASSWORD_FILE:-/run/secrets/database_owner_password}" \
     --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set password `cat :'password_file'`
-- Statements would be logged with the password in them.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
CREATE ROLE cloister_owner LOGIN NOSUPERUSER NOBYPASSRLS CREATEROLE PASSWORD :'password';
CREATE DATABASE cloister OWNER cloister_owner;
\connect cloister
-- pgvector is not marked as trusted: the owner may not.
CREATE EXTENSION IF NOT EXISTS vector;
SQL
