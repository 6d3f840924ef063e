#!/usr/bin/env bash
# Says which of the services that some tests need are here. Tests of a missing
# one skip themselves; with TENANTGATE_REQUIRE_SERVICES=1 that is a failure.
set -euo pipefail

missing=0

# report NAME FOUND HINT prints one line and counts what is missing.
report() {
	if [ -n "$2" ]; then
		printf '%-14s found: %s\n' "$1" "$2"
	else
		printf '%-14s NOT FOUND: tests that need it are skipped (%s)\n' "$1" "$3"
		missing=$((missing + 1))
	fi
}

# first prints the first of the given commands that exists.
first() {
	local name
	for name in "$@"; do
		command -v "$name" && return
	done
	true
}

report redis-server "${TEST_REDIS_URL:-$(first redis-server)}" "apt-get install redis-server"
# The tests' databases are on the server that TEST_POSTGRES_DSN names;
# tools/with-postgres.sh starts one where PostgreSQL is installed. Its password
# is not printed.
report postgresql "$(sed -E 's#//([^:@/]*):[^@]*@#//\1:…@#' <<<"${TEST_POSTGRES_DSN:-}")" "apt-get install postgresql; make test starts it"
report nginx "$(PATH=$PATH:/usr/sbin first nginx)" "apt-get install nginx-light"
report chromium "${CHROMIUM:-$(first chromium chromium-browser google-chrome)}" "apt-get install chromium"

# Nobody has this one installed, so it is asked for by TENANTGATE_REQUIRE_LOKI=1 only.
if loki=$(tools/loki.sh --cached); then
	report loki "$loki" ""
else
	printf '%-14s not built: tests that need the real one are skipped (make test-loki)\n' loki
fi

if [ "$missing" -gt 0 ] && [ "${TENANTGATE_REQUIRE_SERVICES:-}" = 1 ]; then
	echo "services: $missing missing, and TENANTGATE_REQUIRE_SERVICES=1 asks for all" >&2
	exit 1
fi
