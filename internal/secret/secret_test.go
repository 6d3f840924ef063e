package secret_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/secret"
)

func TestNoOutputShowsTheSecret(t *testing.T) {
	t.Parallel()
	s := secret.String("hunter2")
	encoded, err := json.Marshal(map[string]any{"password": s, "nested": struct{ P secret.String }{s}})
	require.NoError(t, err)
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("login", "password", s)

	for _, out := range []string{
		fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %q %x", s, s, s, s, s),
		fmt.Sprintf("%+v", struct{ P secret.String }{s}), string(encoded), log.String(),
	} {
		require.NotContains(t, out, "hunter2")
		require.NotContains(t, out, "68756e74657232")
		require.NotEmpty(t, out)
	}
	require.Equal(t, "hunter2", s.Reveal())
}

func TestEqual(t *testing.T) {
	t.Parallel()
	require.True(t, secret.String("a").Equal("a"))
	require.False(t, secret.String("a").Equal("b"))
	require.False(t, secret.String("a").Equal("aa"))
}
