package permission_test

import (
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/forwardauth"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	_ "github.com/tenantgate/tenantgate/caddymodules/permission"
)

func TestDirectiveAdapts(t *testing.T) {
	adapttest.Run(t, "testdata/*.caddyfiletest")
}
