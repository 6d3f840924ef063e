package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/problem"
)

func TestWriteSendsThePublicHalfOnly(t *testing.T) {
	t.Parallel()
	e := problem.Wrap(errors.New("dial tcp 10.0.0.1: refused"), http.StatusForbidden, "permission-denied", "You may not do this.")
	e.Extra = map[string]any{"permission": "abc/dashboard/write"}
	e.Fields = []problem.Field{{Pointer: "/email", Code: "required", Detail: "Give an e-mail address."}}
	e.Header = http.Header{"Retry-After": {"3"}}

	w := httptest.NewRecorder()
	require.NoError(t, e.Write(w, "4bf92f3577b34da6a3ce929d0e0e4736"))

	require.Equal(t, http.StatusForbidden, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, "3", w.Header().Get("Retry-After"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.JSONEq(t, `{
		"type": "urn:tenantgate:problem:permission-denied",
		"code": "permission-denied",
		"title": "Forbidden",
		"status": 403,
		"detail": "You may not do this.",
		"permission": "abc/dashboard/write",
		"errors": [{"pointer": "/email", "code": "required", "detail": "Give an e-mail address."}],
		"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"
	}`, w.Body.String())
	require.Contains(t, e.Error(), "10.0.0.1", "the log keeps the cause")
}

func TestFrom(t *testing.T) {
	t.Parallel()
	known := problem.New(http.StatusGone, "invitation-expired", "Ask for a new one.")
	require.Same(t, known, problem.From(fmt.Errorf("accept: %w", known)))

	unknown := problem.From(errors.New("UNIQUE constraint failed: users.email"))
	require.Equal(t, http.StatusInternalServerError, unknown.Status)
	require.NotContains(t, string(unknown.Body("")), "UNIQUE")
}

func TestBodyIsValidJSONEvenWithAValueJSONCannotHold(t *testing.T) {
	t.Parallel()
	e := problem.New(http.StatusBadRequest, "bad", "x")
	e.Extra = map[string]any{"f": func() {}}
	require.True(t, json.Valid(e.Body("")))
}
