package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHealthcheckBelievesA200Only(t *testing.T) {
	t.Parallel()
	status := map[string]int{"/good": http.StatusOK, "/created": http.StatusCreated, "/bad": http.StatusServiceUnavailable}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status[r.URL.Path]) }))
	t.Cleanup(server.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()

	require.NoError(t, check([]string{server.URL + "/good"}))
	require.ErrorContains(t, check([]string{server.URL + "/created"}), "201")
	require.ErrorContains(t, check([]string{server.URL + "/bad"}), "503")
	require.ErrorContains(t, check([]string{gone.URL}), "refused")
	require.ErrorContains(t, check([]string{"http://["}), "missing ']'")
	require.ErrorContains(t, check(nil), "give one URL")
	require.ErrorContains(t, check([]string{server.URL, server.URL}), "give one URL")
}
