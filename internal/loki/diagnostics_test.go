package loki

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOneMessageASecondAndTheNewestOfEachKind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told bytes.Buffer
		d := &diagnostics{w: &told}
		take := func() string {
			d.mu.Lock()
			defer d.mu.Unlock()
			defer told.Reset()
			return told.String()
		}
		second := func() string {
			time.Sleep(diagnosticsEvery)
			synctest.Wait()
			return take()
		}
		for i := range 100 {
			d.printf("lines wait, next try in %d s", i)
		}
		d.printf("the buffer is full: %d", 1)
		d.printf("3 lines are lost")
		require.Equal(t, "log shipping: lines wait, next try in 0 s\n", take())
		require.Equal(t, "log shipping: lines wait, next try in 99 s (and 98 like it)\n", second())
		require.Equal(t, "log shipping: the buffer is full: 1\n", second())
		d.printf("the last word")
		d.finish()
		require.Equal(t, "log shipping: 3 lines are lost\nlog shipping: the last word\n", take())
		require.Empty(t, second())
		d.printf("another")
		require.Equal(t, "log shipping: another\n", second())
	})
}
