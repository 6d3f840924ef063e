#!/usr/bin/env bash
# Lists the Tenantgate modules in a Caddy build and fails when one that the
# sources register is missing.
set -euo pipefail

binary=$1
listed=$("$binary" list-modules --packages | awk '$2 == "github.com/tenantgate/tenantgate" { print $1 }')
echo "$listed"
wanted=$(grep -rhoE --include='*.go' --exclude='*_test.go' 'ID: +"[a-z0-9_.]+"' caddymodules | cut -d'"' -f2 | sort -u)
missing=0
for id in $wanted; do
	if ! grep -qxF "$id" <<<"$listed"; then
		echo "$binary lacks module $id" >&2
		missing=1
	fi
done
[ -n "$wanted" ] && exit "$missing"
