#!/bin/sh
# The entry point of Postgres in docker-compose.yml: makes a password for each role at the first
# start, then runs the image's own. Each folder is a volume that only its service has.
set -eu
for service in prepare consumer relay; do
    folder=/secrets/$service
    if [ ! -s "$folder/database-url" ]; then
        role=leadstream_$service
        [ "$service" != prepare ] || role=$POSTGRES_USER
        head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$folder/password"
        printf 'postgresql://%s:%s@postgres:5432/%s' \
            "$role" "$(cat "$folder/password")" "$POSTGRES_DB" > "$folder/database-url"
        chmod 444 "$folder/password" "$folder/database-url"
    fi
done
exec docker-entrypoint.sh "$@"
