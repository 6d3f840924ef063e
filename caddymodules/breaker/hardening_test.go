package breaker_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHardening_CWE444_TheRestOfABodyIsNoRequest: an upstream answers before it
// has read a large body. net/http's transport then closes the body, by which
// the server believed it to be consumed, because Caddy's idle timeout stands in
// front of it; the rest, still on its way, was read as the next request of the
// connection (request smuggling).
func TestHardening_CWE444_TheRestOfABodyIsNoRequest(t *testing.T) {
	var smuggled atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/smuggled" {
			smuggled.Add(1)
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}))
	t.Cleanup(upstream.Close)
	g := newGate(t)
	g.load(t, "breaker_proxy billing "+strings.TrimPrefix(upstream.URL, "http://"))
	inner := "GET /smuggled HTTP/1.1\r\nHost: gate\r\n\r\n"
	body := strings.Repeat(inner, 600<<10/len(inner))
	for range 30 {
		conn, err := net.Dial("unix", g.socket)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		go func() { // fails if the gate has hung up, as it may
			_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			_, _ = io.WriteString(conn, "GET /next HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n")
		}()
		answers := 0
		for reader := bufio.NewReader(conn); ; answers++ {
			res, err := http.ReadResponse(reader, nil)
			if err != nil {
				break
			}
			require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode, "what the upstream says to all")
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
		}
		require.NoError(t, conn.Close())
		require.LessOrEqual(t, answers, 2, "two requests have at most two answers")
	}
	require.Zero(t, smuggled.Load())
}
