#!/usr/bin/env bash
# Prints the path of the Grafana Loki that tests start, and builds it if it is
# not there:
#
#	tools/loki.sh           # once for each version: some minutes, 2.3 GB of memory, 4 GB of sources
#	tools/loki.sh --cached  # builds nothing: exits with 1 if it is not there
#
# TENANTGATE_LOKI names another binary. The version is that of test/loki/go.mod,
# whose README says more.
set -euo pipefail

if [ -n "${TENANTGATE_LOKI:-}" ]; then
	echo "$TENANTGATE_LOKI"
	exit
fi
root=$(cd "$(dirname "$0")/.." && pwd)
version=$(grep -oE 'github\.com/grafana/loki/v3 v[^ ]+' "$root/test/loki/go.mod" | cut -d' ' -f2)
version=${version#v}
folder=${XDG_CACHE_HOME:-$HOME/.cache}/tenantgate
binary=$folder/loki-$version

if [ -x "$binary" ]; then
	echo "$binary"
	exit
fi
if [ "${1:-}" = --cached ]; then
	exit 1
fi

# The name is given to what is complete only.
mkdir -p "$folder"
work=$(mktemp -d "$folder/loki.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "building Loki $version: this takes some minutes, once" >&2
CGO_ENABLED=0 GOWORK=off go build -C "$root/test/loki" -buildvcs=false -tags netgo -o "$work/loki" \
	-ldflags "-s -w -X github.com/grafana/loki/v3/pkg/util/build.Version=$version" github.com/grafana/loki/v3/cmd/loki >&2
mv "$work/loki" "$binary"
echo "$binary"
