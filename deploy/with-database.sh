#!/bin/sh
# The entry point of the services in docker-compose.yml that read the database, each as its role.
set -eu
DATABASE_URL=$(cat /secrets/database-url)
export DATABASE_URL
exec "$@"
