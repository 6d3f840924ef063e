// Package contract holds the API's description, backends/openapi.yaml, against
// the gateway's Caddyfile: what the description says of logging in and of
// permissions must be what the routes check before a request gets to a backend.
package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile" // the caddyfile adapter
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers" // what stands in for the guards
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"       // Caddy's default storage
	_ "github.com/caddyserver/caddy/v2/modules/logging"           // writers and encoders that a Caddyfile may name

	_ "github.com/tenantgate/tenantgate" // the gateway's modules
	"github.com/tenantgate/tenantgate/backends/contract"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// Gateway is the routes of a Caddyfile, with Caddy's own matching, in which
// every guard and every proxy notes that a request came by.
type Gateway struct{ handler http.Handler }

// The headers in which a request's way is noted.
const (
	guardHeader    = "Guard"
	upstreamHeader = "Upstream"
)

// Load makes the gateway of a Caddyfile. storage is a folder for Caddy. Nothing
// is started, so there is nothing to stop.
func Load(caddyfile []byte, storage string) (*Gateway, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, fmt.Errorf("adapt: %w", err)
	}
	var config struct {
		Apps struct {
			HTTP map[string]any `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		return nil, fmt.Errorf("read the adapted Caddyfile: %w", err)
	}
	if config.Apps.HTTP == nil {
		return nil, errors.New("no site of the Caddyfile listens anywhere")
	}
	standIn(config.Apps.HTTP)
	apps, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}},
		"storage": map[string]any{"module": "file_system", "root": storage},
		"apps":    map[string]any{"http": config.Apps.HTTP},
	})
	if err != nil {
		return nil, err
	}
	var caddyConfig caddy.Config
	if err := caddy.StrictUnmarshalJSON(apps, &caddyConfig); err != nil {
		return nil, err
	}
	ctx, err := caddy.ProvisionContext(&caddyConfig)
	if err != nil {
		return nil, fmt.Errorf("provision: %w", err)
	}
	app, err := ctx.App("http")
	if err != nil {
		return nil, fmt.Errorf("provision: %w", err)
	}
	servers := app.(*caddyhttp.App).Servers
	if len(servers) != 1 {
		return nil, fmt.Errorf("there are %d servers, not one", len(servers))
	}
	for _, s := range servers {
		return &Gateway{handler: s}, nil
	}
	return nil, nil
}

// itself is the upstream that stands for the gateway's own answers.
const itself = "the gateway itself"

// standIn replaces guards by handlers that note them, and what answers by ones
// that note the upstream and answer. What listens is dropped: nothing is to listen.
func standIn(v any) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			standIn(item)
		}
	case map[string]any:
		delete(v, "listener_wrappers")
		for _, item := range v {
			standIn(item)
		}
		switch v["handler"] {
		case "jwt_auth":
			replace(v, map[string]any{"handler": "headers", "response": map[string]any{"add": map[string]any{guardHeader: []string{"token"}}}})
		case "check_permission":
			replace(v, map[string]any{"handler": "headers", "response": map[string]any{"add": map[string]any{guardHeader: []string{guard(v)}}}})
		case "reverse_proxy":
			replace(v, map[string]any{"handler": "static_response", "headers": map[string]any{upstreamHeader: []string{dial(v)}}})
		case "permission_answers":
			replace(v, map[string]any{"handler": "static_response", "headers": map[string]any{upstreamHeader: []string{itself}}})
		}
	}
}

func replace(v, by map[string]any) {
	clear(v)
	for key, value := range by {
		v[key] = value
	}
}

// guard returns what a check_permission asks for: product/feature, with
// /action if it is fixed, and what it does not do if it only watches.
func guard(v map[string]any) string {
	text := fmt.Sprintf("%v/%v", v["product"], v["feature"])
	if action, ok := v["action"]; ok {
		text += fmt.Sprintf("/%v", action)
	}
	if mode, ok := v["mode"]; ok && mode != "enforce" {
		text += fmt.Sprintf(" in mode %v", mode)
	}
	return text
}

// dial returns the first upstream of a proxy.
func dial(v map[string]any) string {
	upstreams, _ := v["upstreams"].([]any)
	if len(upstreams) == 0 {
		return ""
	}
	first, _ := upstreams[0].(map[string]any)
	return fmt.Sprint(first["dial"])
}

// Way returns the guards that a request passes, in order, and the upstream that
// it reaches; the upstream is empty if it reaches none.
func (g *Gateway) Way(method, path string) (guards []string, upstream string) {
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, httptest.NewRequest(method, path, http.NoBody))
	return w.Header().Values(guardHeader), w.Header().Get(upstreamHeader)
}

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// Check returns the operations that the gateway does not guard as the
// description says or does not send where upstreams says. What the description
// has the gateway answer must reach no upstream.
// A path without its last slash must be guarded in the same way or not be there.
func (g *Gateway) Check(doc *contract.Document, upstreams func(contract.Operation) string) []string {
	var faults []string
	for _, o := range doc.Operations {
		path := placeholder.ReplaceAllString(o.Path, "7")
		guards, upstream := g.Way(o.Method, path)
		want := itself
		if !o.Gateway {
			want = upstreams(o)
		}
		if upstream != want {
			faults = append(faults, fmt.Sprintf("%s reaches %q, not %q", o, upstream, want))
		}
		if want := wanted(o); !slices.Equal(complete(guards, o.Method), want) {
			faults = append(faults, fmt.Sprintf("%s passes %q, not %q", o, guards, want))
		}
		bare := strings.TrimSuffix(path, "/")
		if guards, upstream := g.Way(o.Method, bare); upstream != "" && !slices.Equal(complete(guards, o.Method), wanted(o)) {
			faults = append(faults, fmt.Sprintf("%s %s passes %q, not %q", o.Method, bare, guards, wanted(o)))
		}
	}
	return faults
}

// wanted returns the guards that the description asks for.
func wanted(o contract.Operation) (guards []string) {
	if !o.Public {
		guards = append(guards, "token")
	}
	if o.Permission != "" {
		guards = append(guards, o.Permission)
	}
	return guards
}

// complete adds to a permission without an action the one that the method
// stands for, as check_permission does.
func complete(guards []string, method string) []string {
	var all []string
	for _, g := range guards {
		if strings.Count(g, "/") == 1 {
			action, _ := permission.ActionOf(method)
			g += "/" + action
		}
		all = append(all, g)
	}
	return all
}
