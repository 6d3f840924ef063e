#!/usr/bin/env bash
# Holds the dashboards in deploy/grafana against the types of Grafana's own schema
# (@grafana/schema) with the TypeScript compiler, and shows first that a wrong type is
# found. Says so and passes when npm or its registry is out of reach, unless
# TENANTGATE_REQUIRE_SERVICES=1. Panel options have no types there:
# test/deploy checks what matters of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(@grafana/schema@13.2.3 typescript@5.9.3)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

skip() {
	echo "check-dashboards: skipped, $1"
	[ "${TENANTGATE_REQUIRE_SERVICES:-}" != 1 ]
	exit
}

# as_typescript FILE prints the dashboard as a typed constant. Plain turns the schema's
# enumerations, which JSON cannot name, into the texts that they stand for.
as_typescript() {
	cat <<'TYPES'
import type { Dashboard } from "@grafana/schema";
type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
export const dashboard: Plain<Dashboard> =
TYPES
	cat "$1"
}

compile() {
	(cd "$work" && npx --no-install tsc --noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext "$@")
}

command -v npm >/dev/null || skip "npm is missing"
(cd "$work" && npm install --ignore-scripts --no-audit --no-fund --no-package-lock "${packages[@]}") >"$work/npm.log" 2>&1 ||
	skip "npm can't install ${packages[*]}: $(tail -n 1 "$work/npm.log")"

count=0
for file in deploy/grafana/dashboards/*.json; do
	as_typescript "$file" >"$work/$(basename "$file" .json).ts"
	count=$((count + 1))
done
compile "$work"/*.ts

# A check that can't fail says nothing.
sed 's/"schemaVersion": [0-9]*/"schemaVersion": "none"/' deploy/grafana/dashboards/traffic.json >"$work/wrong.json"
as_typescript "$work/wrong.json" >"$work/wrong.ts"
if compile "$work/wrong.ts" >/dev/null; then
	echo "check-dashboards: the compiler takes a schemaVersion that is no number" >&2
	exit 1
fi
echo "check-dashboards: $count dashboards have the types of ${packages[0]}"
