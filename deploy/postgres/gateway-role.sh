#!/bin/sh
# Runs once, when the database is made: a role for the gateways, which read and change
# nothing. Tables that `backends migrate` makes later are readable by it too.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
	--set password="$(cat "$GATEWAY_DATABASE_PASSWORD_FILE")" --set owner="$POSTGRES_USER" <<'SQL'
CREATE ROLE tenantgate_gateway LOGIN PASSWORD :'password';
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT ON TABLES TO tenantgate_gateway;
SQL
