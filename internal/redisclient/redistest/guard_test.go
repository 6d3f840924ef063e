package redistest_test

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
	"github.com/tenantgate/tenantgate/internal/servertest"
)

// A test's process that is killed, or ends by its time-out, cleans nothing up.
func TestAServerEndsWithTheProcessOfItsTest(t *testing.T) {
	addr, kill := servertest.Rerun(t, func() string {
		s := redistest.Start(t)
		s.Freeze()
		return s.Addr()
	}, "TMPDIR="+t.TempDir())
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	kill()
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
		}
		// A frozen server whose queue is full answers with a time-out.
		return errors.Is(err, syscall.ECONNREFUSED)
	}, 20*time.Second, 10*time.Millisecond)
}
