package tracecontext_test

import (
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/tracing"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	_ "github.com/tenantgate/tenantgate/caddymodules/tracecontext"
)

func TestAdapt(t *testing.T) {
	adapttest.Run(t, "testdata/*.caddyfiletest")
}
