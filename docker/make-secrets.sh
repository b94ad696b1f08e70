#!/bin/sh
# Make the secrets of a new installation: docker/make-secrets.sh FOLDER
#
# Run as root: each file belongs to the one user inside the containers who reads it, mode 0600, and
# Compose mounts files with the owner they have. Files that exist are left alone, so that running
# it again after an upgrade adds what is new and replaces nothing.
set -eu
umask 077

folder=${1:?"usage: make-secrets.sh FOLDER"}
host=${CLOISTER_HOST:-localhost}
application=10001   # web and worker images
postgres=999        # the PostgreSQL image's postgres
valkey=999          # the Valkey image's valkey
proxy=101           # the proxy image's nginx

if [ "$(id -u)" != 0 ]; then
    echo "run as root: the files must belong to the containers' users" >&2
    exit 1
fi
mkdir -p "$folder"
# Each container sees its own files only; on the host nobody but root lists the folder.
chmod 0700 "$folder"

random() { openssl rand -hex 32; }  # nothing in it needs quoting in a URL or an ACL

# put NAME OWNER: standard input becomes the secret, whole or not at all, unless there is one.
put() {
    if [ -e "$folder/$1" ]; then cat >/dev/null; return; fi
    cat > "$folder/.$1.new"
    [ -s "$folder/.$1.new" ] || { echo "could not make $1" >&2; exit 1; }
    chown "$2" "$folder/.$1.new"
    mv "$folder/.$1.new" "$folder/$1"
    echo "made $1"
}

value() { cat "$folder/$1"; }

# Everything stored is unreadable without this one: keep a copy apart from the data's backups.
head -c 32 /dev/urandom | base64 | put key_encryption_key $application
random | put django_secret_key $application

random | put database_superuser_password $postgres
random | put database_owner_password $postgres
random | put web_database_password $application
random | put worker_database_password $application
database_url() { echo "postgresql://cloister_$1:$2@database:5432/cloister"; }
database_url owner "$(value database_owner_password)" | put database_url_owner $application
database_url web "$(value web_database_password)" | put database_url_web $application
database_url worker "$(value worker_database_password)" | put database_url_worker $application

echo "redis://cloister:$(random)@broker:6379/0" | put broker_url $application
# Valkey is told the digest only. Whoever does not sign in may ask whether it is alive.
password=$(sed 's|^redis://cloister:\([^@]*\)@.*|\1|' "$folder/broker_url")
digest=$(printf %s "$password" | sha256sum | cut -d' ' -f1)
{
    echo "user default on nopass resetkeys resetchannels -@all +ping"
    echo "user cloister on #$digest ~* &* +@all -@admin -@dangerous +info"
} | put broker_acl $valkey

# A certificate of our own for a first look; put the organisation's in its place.
if [ ! -e "$folder/tls_key" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 \
        -subj "/CN=$host" -addext "subjectAltName=DNS:$host" \
        -keyout "$folder/.tls_key" -out "$folder/.tls_certificate" 2>/dev/null
    put tls_certificate $proxy < "$folder/.tls_certificate"
    put tls_key $proxy < "$folder/.tls_key"
    rm "$folder/.tls_key" "$folder/.tls_certificate"
fi
