#!/usr/bin/env bash
# Makes the secrets that docker-compose.yml mounts as files, in deploy/secrets. Files that
# are there stay as they are: a second run changes nothing. The folder is for its owner
# only; the files in it can be read by all, because containers read them as users of
# their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

umask 022
mkdir -p secrets
chmod 700 secrets

# secret NAME VALUE writes the file if it is not there.
secret() {
	if [ ! -e "secrets/$1" ]; then
		printf '%s\n' "$2" >"secrets/$1"
		echo "made deploy/secrets/$1"
	fi
}

# random prints 32 random bytes in hexadecimal digits, which need no quoting anywhere.
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

secret database_password "$(random)"
secret database_url "postgres://tenantgate:$(cat secrets/database_password)@postgres:5432/tenantgate"
secret gateway_database_password "$(random)"
secret gateway_database_url "postgres://tenantgate_gateway:$(cat secrets/gateway_database_password)@postgres:5432/tenantgate"
secret gateway_secret "$(random)"
secret key_encryption_secret "$(random)"
secret webhook_secret "whsec_$(head -c 32 /dev/urandom | base64)"
secret admin_password "$(random)"
secret grafana_password "$(random)"
