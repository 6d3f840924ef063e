// Package deploy checks what is in the folder deploy, docker-compose.yml and
// .env.example without Docker and without Grafana: each file against the parser of
// the program that reads it where there is one, dashboards and rules by running
// their queries on a real Loki. It is a module of its own, because the parsers bring
// much along.
//
//	cd test/deploy && go test ./...
//
// Loki is the program that TENANTGATE_LOKI names, or tenantgate/loki-3.7.8 in the
// user's cache folder (tools/loki.sh builds it). Without it the tests that need it are skipped, or
// fail if TENANTGATE_REQUIRE_LOKI=1.
package deploy
