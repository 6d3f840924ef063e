package operator_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
)

// TestCVE_2003_0063_NoEscapeSequenceReachesTheTerminal is the class of attacks by
// text that a terminal obeys.
func TestCVE_2003_0063_NoEscapeSequenceReachesTheTerminal(t *testing.T) {
	t.Parallel()
	require.Equal(t, "?]0;owned??31m??txt??? é – 日本", operator.Printable("\x1b]0;owned\x07\u009b31m\x7f\u202etxt\r\n\xff é – 日本"))

	var out bytes.Buffer
	require.NoError(t, operator.WriteJSON(&out, "a\u009b\x1b\U000e0041é\u2028z", ""))
	require.Equal(t, `"a\u009b\u001b\udb40\udc41é\u2028z"`+"\n", out.String())
}

func TestWriteJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, operator.WriteJSON(&out, map[string]string{"a": "<&>"}, "  "))
	require.Equal(t, []string{"{", `  "a": "<&>"`, "}", ""}, strings.Split(out.String(), "\n"))

	out.Reset()
	require.Error(t, operator.WriteJSON(&out, func() {}, ""))
	require.Empty(t, out.String())
	require.ErrorIs(t, operator.WriteJSON(full{}, 1, ""), errFull)
}

var errFull = errors.New("full")

// full is a writer with no room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
