// Package gateway is the Caddy app "tenantgate": the global options, the
// connections that all handlers share, and what one handler tells the next
// about a request.
package gateway

import (
	"context"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

// The request variables below hold pointers that only Go code can make, so a
// `vars` directive that sets the same name can hide a value (the request is
// then refused) but never forge one.
const (
	principalVar = "tenantgate.principal"
	traceVar     = "tenantgate.trace"
	inquiryVar   = "tenantgate.inquiry"
)

// SetPrincipal records who the request speaks for. Only jwt_auth calls it, and
// only after the token was verified.
func SetPrincipal(ctx context.Context, p *identity.Principal) {
	caddyhttp.SetVar(ctx, principalVar, p)
}

// Principal returns who the request speaks for, or nil if nobody was authenticated.
func Principal(ctx context.Context) *identity.Principal {
	p, _ := caddyhttp.GetVar(ctx, principalVar).(*identity.Principal)
	return p
}

// SetTrace records the request's trace context.
func SetTrace(ctx context.Context, t *tracecontext.Trace) {
	caddyhttp.SetVar(ctx, traceVar, t)
}

// Trace returns the request's trace context, or nil if trace_context did not run.
func Trace(ctx context.Context) *tracecontext.Trace {
	t, _ := caddyhttp.GetVar(ctx, traceVar).(*tracecontext.Trace)
	return t
}

// Inquiry is a request that another proxy asks about. It is answered, never
// forwarded.
type Inquiry struct {
	// Passed says that a check_permission let the request through.
	Passed bool
	// Permission is what the request was found to have, product/feature/action;
	// empty if the last check_permission was in shadow mode and found nothing.
	Permission string
}

// SetInquiry says that the request is one that another proxy asks about. Only
// authorize calls it.
func SetInquiry(ctx context.Context, i *Inquiry) {
	caddyhttp.SetVar(ctx, inquiryVar, i)
}

// AskedAbout returns the inquiry, or nil for a request that is to be forwarded.
func AskedAbout(ctx context.Context) *Inquiry {
	i, _ := caddyhttp.GetVar(ctx, inquiryVar).(*Inquiry)
	return i
}
