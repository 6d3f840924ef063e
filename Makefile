# Every task of this repository. `make` alone lists them.
# Set-up is Go and a C compiler (SQLite is C); tools build themselves from
# tools/go.mod at their pinned versions.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# One set of flags for every test run: other flags would compile Caddy anew.
GOTEST := go test -race -timeout 20m
TOOL := go tool -modfile=tools/go.mod
# Arguments for the program or the tests, as in `make run ARGS='--fresh'`.
ARGS ?=
# What `make test` tests.
PKG ?= ./...
# How long `make fuzz` feeds each target.
FUZZTIME ?= 10s

export CGO_ENABLED = 1

##@ Use

.PHONY: run
run: build ## start gateway, backends and demo data: go run ./cmd/tenantgate dev
	@# On a terminal the program gets a process group of its own: Ctrl-C then
	@# reaches it and not make, which would call the clean end an interrupt.
	@if [ -t 0 ]; then set -m; bin/tenantgate dev $(ARGS); else exec bin/tenantgate dev $(ARGS); fi

.PHONY: build
build: ## build bin/tenantgate and bin/backends
	@mkdir -p bin
	go build -o bin/ ./cmd/...

.PHONY: xcaddy
xcaddy: ## build the same gateway with xcaddy and list our modules in it
	@mkdir -p bin
	@# Without xcaddy's own -trimpath the packages compiled for `build` are used again.
	XCADDY_GO_BUILD_FLAGS="-ldflags='-w -s'" $(TOOL) xcaddy $$(cat xcaddy.txt) --output bin/caddy-xcaddy
	@tools/list-modules.sh bin/caddy-xcaddy

##@ Test

.PHONY: test
test: ## run every test with the race detector; says which services it found
	@tools/with-postgres.sh bash -c 'tools/services.sh && exec "$$@"' -- $(GOTEST) $(ARGS) $(PKG)

.PHONY: test-loki
test-loki: ## every test that needs a real Loki, which is built once (ten minutes), and our encoder against its own
	@loki=$$(tools/loki.sh) && export TENANTGATE_LOKI="$$loki" TENANTGATE_REQUIRE_LOKI=1 && \
	tools/with-postgres.sh $(GOTEST) $(ARGS) ./internal/loki/... ./caddymodules/loki && \
	tools/with-postgres.sh $(GOTEST) -run 'Loki|NoLineIsLost|Topology' $(ARGS) ./test/e2e && \
	go -C test/loki/push test -race ./... && go -C test/deploy test -race ./...

.PHONY: fuzz
fuzz: ## feed every fuzz target for FUZZTIME (10s)
	@tools/fuzz.sh $(FUZZTIME)

.PHONY: update-golden
update-golden: ## rewrite the golden files; read the diff before you commit it
	go test -race $$(grep -rlE --include='*_test.go' 'adapttest\.Run|flag\.Bool\("update"' . | xargs -n1 dirname | sort -u) -update

##@ Check

.PHONY: check
check: test check-rest ## everything that must hold before a commit lands

.PHONY: check-rest
check-rest: fmt-check vet lint links vuln xcaddy check-policy check-deploy bench-smoke ## check without test (goldens and the API contract are tests)

.PHONY: fmt
fmt: ## format the Go files
	$(TOOL) golangci-lint fmt

.PHONY: fmt-check
fmt-check: ## fail when a Go file is not formatted
	$(TOOL) golangci-lint fmt --diff

.PHONY: vet
vet: ## go vet
	go vet ./...

.PHONY: lint
lint: ## golangci-lint with .golangci.yml
	$(TOOL) golangci-lint run

.PHONY: links
links: ## check links, anchors and `make` lines in the documents
	$(GOTEST) ./test/repo

.PHONY: vuln
vuln: ## govulncheck; says so when the vulnerability database is out of reach
	@tools/vuln.sh

.PHONY: check-deploy
check-deploy: build ## docker-compose.yml, Dockerfiles, dashboards and rules, by the parsers of those who read them
	go -C test/deploy test -race ./...
	@tools/check-dashboards.sh

.PHONY: check-policy
check-policy: build ## hold the demo's permission table against examples/policy
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; export DATABASE_URL="sqlite://$$work/demo.db"; \
	bin/backends migrate && bin/backends seed --demo >/dev/null && \
	bin/tenantgate permissions check examples/policy/demo.checks.yaml && \
	bin/tenantgate permissions check examples/policy/demo.checks.yaml --policy examples/policy/demo.yaml && \
	bin/tenantgate permissions diff examples/policy/demo.yaml --prune

##@ Measure

.PHONY: bench
bench: build ## full chain against bare reverse_proxy, paired; writes docs/benchmarks.md
	go run ./bench $(ARGS)

.PHONY: bench-smoke
bench-smoke: build ## bench in half a minute, without the page: it runs, nothing is twice as slow
	go run ./bench -pairs 6 -slot 500ms -output '' -max 2 -max-tuned 2

.PHONY: reliability
reliability: ## measure gateways through faults of Redis, the database and Loki; writes docs/reliability.md, permissions.md and log-shipping.md, a quarter of an hour
	TENANTGATE_MEASURE=1 TENANTGATE_REQUIRE_SERVICES=1 tools/with-postgres.sh go test -count=1 -timeout 30m \
		-run 'TestBreakers|TestEveryAnswer|TestDecisions|TestNoLineIsLost|TestRequestsDoNotWait|TestARequestOverThree|TestAcceptIsWhole' $(ARGS) ./test/e2e

.PHONY: bench-engines
bench-engines: ## the same permission table decided by us, casbin, OPA and Cedar; a module of its own
	cd bench/engines && go test -run=TestEnginesAgree -bench=. -benchmem -cpu=1 -timeout=1h $(ARGS) .

.PHONY: bench-go
bench-go: ## Go benchmarks of every core and module
	go test -run='^$$' -bench=. -benchmem $(ARGS) ./internal/... ./caddymodules/... ./bench

.PHONY: benchstat
benchstat: ## compare two outputs of bench-go: make benchstat ARGS='old.txt new.txt'
	$(TOOL) benchstat $(ARGS)

##@ Help

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-zA-Z0-9_-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
