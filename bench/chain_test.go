package main

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/jwtauth"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/sanitize"
	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

// BenchmarkChain is one request's whole decision without Caddy: clean the
// headers, open the trace, verify a token that is cached, decide the
// permission, pass the breaker.
func BenchmarkChain(b *testing.B) {
	ctx := context.Background()
	s, err := newSite(ctx, b.TempDir(), "unused")
	require.NoError(b, err)

	key, err := os.ReadFile(s.key)
	require.NoError(b, err)
	keys, err := jwtauth.PinnedKeys(string(key))
	require.NoError(b, err)
	verifier, err := jwtauth.New(jwtauth.Config{
		Issuers: []jwtauth.Issuer{{Name: "bench", Keys: keys, Audiences: []string{"bench"}}}, Leeway: 30 * time.Second, CacheSize: 1000,
	})
	require.NoError(b, err)
	tokens, err := os.ReadFile(s.tokens)
	require.NoError(b, err)
	token, _, _ := strings.Cut(string(tokens), "\n")

	db, err := database.OpenReadOnly(s.database(), clock.System{})
	require.NoError(b, err)
	defer func() { _ = db.Close() }()
	table, err := permission.Load(ctx, db, nil)
	require.NoError(b, err)
	ref := table.Resolve(permission.Permission{Product: "abc", Feature: "reports", Action: permission.Read})

	settings := breaker.DefaultSettings()
	group, err := breaker.New(breaker.NewMemory(clock.System{}, nil), clock.System{}).Join("bench", &breaker.Member{Settings: &settings})
	require.NoError(b, err)
	guard := group.Breaker("10.0.0.1:80", "")

	header := http.Header{
		"Accept": {"*/*"}, "User-Agent": {"bench"}, "Authorization": {"Bearer " + token},
		"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	}
	b.ReportAllocs()
	for b.Loop() {
		sanitize.Headers(header)
		sanitize.Connection(header)
		trace := tracecontext.Start(header, tracecontext.Options{Trusted: true})
		verified, err := verifier.Verify(token)
		if err != nil || trace.TraceID == "" {
			b.Fatal(err)
		}
		p := &verified.Principal
		if d := table.Decide(p.TenantID, p.UserID, ref); !d.Allowed {
			b.Fatal(d.Reason)
		}
		permit, ok := guard.Acquire(ctx)
		if !ok {
			b.Fatal("the circuit is open")
		}
		permit.Done(breaker.Success)
	}
}
