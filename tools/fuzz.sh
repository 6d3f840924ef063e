#!/usr/bin/env bash
# Runs every native fuzz target for the given time, one after the other: Go
# fuzzes one target of one package at a time.
set -euo pipefail

time=${1:-10s}
count=0
while IFS=: read -r file name; do
	echo "== $(dirname "$file") $name"
	go test -run='^$' -fuzz="^${name}\$" -fuzztime="$time" "$(dirname "$file")" </dev/null
	count=$((count + 1))
done < <(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's/:func /:/' | sort)
echo "fuzz: $count targets, $time each"
