package gateway_test

import (
	"testing"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	_ "github.com/tenantgate/tenantgate/caddymodules/gateway"
)

func TestGlobalOptionAdapts(t *testing.T) {
	adapttest.Run(t, "testdata/*.caddyfiletest")
}
