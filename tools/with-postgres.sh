#!/usr/bin/env bash
# Runs a command with a PostgreSQL server for its tests:
#
#	tools/with-postgres.sh go test ./internal/database
#
# The server is thrown away at the end, whatever that is. If TEST_POSTGRES_DSN
# names one already, or PostgreSQL is not installed, the command just runs.
set -euo pipefail

# newest prints the path of the newest initdb, or nothing.
newest() {
	{ compgen -G '/usr/lib/postgresql/*/bin/initdb' || compgen -G '/usr/pgsql-*/bin/initdb' || command -v initdb || true; } | sort -V | tail -n 1
}

initdb=$(newest)
if [ -n "${TEST_POSTGRES_DSN:-}" ] || [ -z "$initdb" ]; then
	exec "$@"
fi
bin=$(dirname "$initdb")

# as_postgres runs a command as a user that PostgreSQL accepts: not root.
as_postgres() {
	if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

work=$(mktemp -d)
child=
cleanup() {
	local status=$?
	trap '' INT TERM
	set +e
	if [ -n "$child" ]; then
		kill -TERM -- "-$child" 2>/dev/null # the whole process group
		wait "$child"
	fi
	if [ -f "$work/data/postmaster.pid" ]; then
		as_postgres "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null
	fi
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

if [ "$(id -u)" -eq 0 ]; then chown postgres "$work"; fi
(cd "$work" && as_postgres "$bin/initdb" -D "$work/data" -U tenantgate -A trust -E UTF8 --locale=C --no-sync) >"$work/initdb.log"

# start tries free ports below the range that the system hands out: whoever
# takes one tries again when it is taken.
start() {
	local port _
	for _ in 1 2 3 4 5 6 7 8; do
		port=$((10240 + RANDOM % 22000))
		if (cd "$work" && as_postgres "$bin/pg_ctl" -D "$work/data" -l "$work/data/log" -w -s -o "-p $port -k '' -c listen_addresses=127.0.0.1 \
			-c fsync=off -c full_page_writes=off -c synchronous_commit=off -c max_connections=300" start) 2>/dev/null; then
			export TEST_POSTGRES_DSN="postgres://tenantgate@127.0.0.1:$port/postgres?sslmode=disable"
			return
		fi
	done
	cat "$work/data/log" >&2
	return 1
}
start

# In the background, so that a signal to this script ends the command at once
# and the server after it; in a process group of its own (-m), because else it
# would ignore Ctrl-C.
set -m
"$@" <&0 &
child=$!
set +m
status=0
wait "$child" || status=$?
child=
exit "$status"
