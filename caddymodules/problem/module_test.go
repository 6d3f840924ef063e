package problem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/caddymodules/problem"
	core "github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

func TestAdapt(t *testing.T) { adapttest.Run(t, "testdata/*.caddyfiletest") }

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// serve runs the handler as an error route would.
func serve(t *testing.T, err error) (*httptest.ResponseRecorder, *caddyhttp.ExtraLogFields) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
	gateway.SetTrace(r.Context(), &tracecontext.Trace{TraceID: traceID})
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.ErrorCtxKey, err))
	require.NoError(t, problem.Handler{}.ServeHTTP(w, r, nil))
	return w, r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
}

func TestEveryErrorBecomesAProblem(t *testing.T) {
	t.Parallel()
	refusal := core.New(http.StatusForbidden, "permission-denied", "You lack a permission.")
	refusal.Extra = map[string]any{"permission": "abc/dashboard/write"}
	for name, tt := range map[string]struct {
		err    error
		status int
		code   string
		detail string
	}{
		"a refusal of ours":               {caddyhttp.Error(http.StatusForbidden, refusal), 403, "permission-denied", "You lack a permission."},
		"a refusal inside other errors":   {caddyhttp.Error(http.StatusForbidden, fmt.Errorf("dial: %w", refusal)), 403, "permission-denied", "You lack a permission."},
		"an upstream that is gone":        {caddyhttp.Error(http.StatusBadGateway, errors.New("dial tcp 10.1.2.3:80: refused")), 502, "upstream-failed", "The service behind this path could not be reached or gave no valid answer."},
		"a status of the error directive": {caddyhttp.Error(http.StatusNotFound, nil), 404, "not-found", "There is nothing at this path."},
		"a rare status":                   {caddyhttp.Error(http.StatusTeapot, errors.New("secret")), 418, "", ""},
		"an error without a status":       {errors.New("open /etc/secret"), 500, "internal", "Something went wrong on our side; quote the trace id when you report it."},
	} {
		w, _ := serve(t, tt.err)
		require.Equal(t, tt.status, w.Code, name)
		require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), name)
		var body map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body), name)
		require.InDelta(t, tt.status, body["status"], 0, name)
		require.Equal(t, traceID, body["trace_id"], name)
		if tt.code == "" {
			require.Equal(t, "about:blank", body["type"], name)
			require.NotContains(t, body, "code", name)
		} else {
			require.Equal(t, tt.code, body["code"], name)
			require.Equal(t, tt.detail, body["detail"], name)
		}
		for _, private := range []string{"10.1.2.3", "secret", "dial"} {
			require.NotContains(t, w.Body.String(), private, name)
		}
	}
}

func TestWithoutAnErrorTheNextHandlerAnswers(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	require.NoError(t, problem.Handler{}.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil), next))
	require.Equal(t, http.StatusNoContent, w.Code)
}
