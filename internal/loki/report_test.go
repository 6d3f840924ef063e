package loki

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// reports returns the lines about the shipping.
func reports(t *testing.T, fake *lokitest.Fake) (all []reportLine) {
	t.Helper()
	for _, e := range fake.Entries("") {
		if strings.Contains(e.Line, `"logger":"loki"`) {
			var line reportLine
			require.NoError(t, json.Unmarshal([]byte(e.Line), &line))
			all = append(all, line)
		}
	}
	return all
}

func TestAReportTellsOfWhatHappenedAndNowAndThenThatNothingDid(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	s, err := Open(Options{Dir: t.TempDir(), Service: "svc", Diagnostics: testWriter{t}}, Settings{URL: fake.URL()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	for range 3 {
		_, err := s.Write([]byte(`{"msg":"x"}`))
		require.NoError(t, err)
	}
	require.NoError(t, s.Flush(t.Context()))
	s.report() // as after a minute
	require.NoError(t, s.Flush(t.Context()))
	for range heartbeat - 1 {
		s.report()
		require.NoError(t, s.Flush(t.Context()))
	}
	all := reports(t, fake)
	require.Len(t, all, 1)
	require.Equal(t, []any{"svc", "info", int64(3), int64(3), int64(0)}, []any{all[0].Service, all[0].Level, all[0].Accepted, all[0].Acknowledged, all[0].Retries})

	s.report() // nothing for ten minutes
	require.NoError(t, s.Flush(t.Context()))
	all = reports(t, fake)
	require.Len(t, all, 2)
	require.Zero(t, all[1].Accepted)
	require.Equal(t, int64(1), all[1].Acknowledged, "the report before")
}
