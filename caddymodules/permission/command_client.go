package permission

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
)

// callTimeout bounds a call of the admin API.
const callTimeout = 30 * time.Second

// askGateway asks the admin API at an address and decodes its answer.
func askGateway(ctx context.Context, address, path string, query url.Values, answer any) error {
	client := operator.Client{Address: address, Flag: "--gateway", Subject: "permissions", Timeout: callTimeout}
	return client.Call(ctx, http.MethodGet, adminPath+path+"?"+query.Encode(), nil, func(content []byte) bool {
		return json.Unmarshal(content, answer) == nil
	})
}
