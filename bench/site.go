package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
)

// path is what every request asks for.
const path = "/reports/1"

// variant is one configuration of the gateway.
type variant struct {
	name, what string
	// Chain is our four modules instead of a bare reverse_proxy, Log the access
	// log to a file, Tuned the settings of docs/benchmarks.md.
	Chain, Log, Tuned bool
}

var (
	bare  = variant{name: "bare", what: "Caddy's `reverse_proxy` alone, the anchor"}
	again = variant{name: "bare again", what: "a second identical process: the noise of the method"}
	noLog = variant{name: "chain, no access log", what: "the four modules", Chain: true}
	chain = variant{name: "full chain", what: "the four modules and the access log", Chain: true, Log: true}
	tuned = variant{name: "full chain, tuned", what: "the same with the settings below", Chain: true, Log: true, Tuned: true}
)

// variants are compared with bare, in this order.
var variants = []variant{again, noLog, chain, tuned}

// env is what the variant's process gets besides our own environment. The
// anchor is plain Go, whatever the binary would choose for itself.
func (v variant) env() []string {
	switch {
	case v.Tuned:
		return []string{"GOGC=400"}
	case !v.Chain:
		return []string{"GOGC=100"}
	}
	return nil
}

// site is everything that the proxies need: keys, tokens, the permission table.
type site struct {
	folder, upstream string
	key              string // PEM file of the public key
	tokens           string // file with one token a line
	started          int
}

// newSite makes a store with the demo's tenants, an RSA key and a token for
// every user, all of whom may read the path.
func newSite(ctx context.Context, folder, upstream string) (*site, error) {
	s := &site{
		folder: folder, upstream: upstream,
		key: filepath.Join(folder, "key.pem"), tokens: filepath.Join(folder, "tokens"),
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	db, err := database.Open(ctx, s.database(), clock.System{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	if err := db.Migrate(ctx); err != nil {
		return nil, err
	}
	if err := seed.Demo(ctx, db, noHash{}); err != nil {
		return nil, err
	}
	tokens, err := mint(ctx, db, key)
	if err != nil {
		return nil, err
	}
	return s, os.WriteFile(s.tokens, []byte(strings.Join(tokens, "\n")), 0o600)
}

func (s *site) database() string { return "sqlite://" + filepath.Join(s.folder, "bench.db") }

// noHash stands in for argon2id: nobody logs in here.
type noHash struct{}

func (noHash) Hash(context.Context, string) (string, error) { return "none", nil }

// mint returns a token for every member of every tenant.
func mint(ctx context.Context, db *database.DB, key *rsa.PrivateKey) ([]string, error) {
	rows, err := db.Reader().QueryContext(ctx, `
SELECT m.tenant_id, m.user_id, r.name
FROM memberships m JOIN roles r ON r.tenant_id = m.tenant_id AND r.id = m.role_id
ORDER BY m.tenant_id, r.id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tokens []string
	for rows.Next() {
		var tenant int64
		var user, role string
		if err := rows.Scan(&tenant, &user, &role); err != nil {
			return nil, err
		}
		now := time.Now()
		token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
			"iss": "bench", "aud": "bench", "sub": user, "tenant_id": strconv.FormatInt(tenant, 10), "roles": []string{role},
			"iat": now.Unix(), "exp": now.Add(4 * time.Hour).Unix(), "jti": strconv.Itoa(len(tokens)),
		})
		signed, err := token.SignedString(key)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, signed)
	}
	return tokens, rows.Err()
}

// caddyfile is the configuration of every variant. Both sides keep enough idle
// connections for the load; the default of 32 would cost the anchor 13 %.
// Access lines go where the repository's Caddyfile sends them: to the default
// log, here a file.
var caddyfile = template.Must(template.New("Caddyfile").Parse(`{
	admin off
	persist_config off
	auto_https off
{{- if .Log}}
	log default {
		output file {{.LogFile}} {
			roll_disabled
		}
		format tenantgate
{{- if .Tuned}}
		exclude http.handlers.reverse_proxy
{{- end}}
	}
{{- end}}
{{- if .Tuned}}
	servers {
		timeouts {
			read_body_idle -1s
			write_idle -1s
		}
	}
{{- end}}
{{- if .Chain}}
	tenantgate {
		database {{.Database}}
	}
{{- end}}
}

http://{{.Address}} {
	bind 127.0.0.1
{{- if .Log}}
	log
{{- end}}
{{- if .Chain}}
	trace_context
	jwt_auth {
		issuer bench {
			public_key {file.{{.Key}}}
			audience bench
			algorithms RS256
		}
	}
	check_permission abc reports
	breaker_proxy bench {{.Upstream}} {
{{- else}}
	reverse_proxy {{.Upstream}} {
{{- end}}
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
{{- if .Chain}}
	handle_errors {
		problem_details
	}
{{- end}}
}
`))

// start starts the variant on a free port.
func (s *site) start(ctx context.Context, binary string, v variant) (*proxy, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	s.started++
	name := filepath.Join(s.folder, fmt.Sprintf("%d.caddyfile", s.started))
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	err = caddyfile.Execute(file, struct {
		variant
		Address, Upstream, Database, Key, LogFile string
	}{v, address, s.upstream, s.database(), s.key, filepath.Join(s.folder, fmt.Sprintf("%d.log", s.started))})
	if err != nil {
		return nil, err
	}
	return startProxy(ctx, binary, name, address, v.env())
}

// freeAddress returns an address that nothing listens on now.
func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
