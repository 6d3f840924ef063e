package loki

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/secret"
)

// settingsFor are those for a server, with a time-out that a test can wait for.
func settingsFor(t *testing.T, url string, change ...func(*Settings)) Settings {
	t.Helper()
	s, err := Settings{URL: url, Timeout: 2 * time.Second}.Complete()
	require.NoError(t, err)
	for _, c := range change {
		c(&s)
	}
	return s
}

func clientFor(t *testing.T) *http.Client {
	t.Helper()
	c := NewClient(nil)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// raw serves each connection with what answer writes after a request's header was
// read, and closes it.
func raw(t *testing.T, answer func(conn net.Conn)) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReaderSize(conn, 16)); err == nil {
					answer(conn)
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

func TestARequestCarriesWhatLokiAsksFor(t *testing.T) {
	t.Parallel()
	streams := []stream{lines("1", 3), lines("2", 2)}
	for name, c := range map[string]struct {
		change                func(*Settings)
		tenant, authorization string
	}{
		"nothing else":    {func(*Settings) {}, "", ""},
		"a tenant":        {func(*Settings) {}, "acme", ""},
		"a bearer token":  {func(s *Settings) { s.Bearer = "token" }, "acme", "Bearer token"},
		"a user":          {func(s *Settings) { s.Username, s.Password = "ada", secret.String("p:w") }, "", "Basic YWRhOnA6dw=="},
		"a user alone":    {func(s *Settings) { s.Username = "ada" }, "", "Basic YWRhOg=="},
		"a client's wait": {func(s *Settings) { s.Client = &http.Client{Timeout: 1} }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got *http.Request
			var body []byte
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got = r
				body, _ = io.ReadAll(r.Body) // what is missing is missed below
				w.WriteHeader(http.StatusNoContent)
			}))
			defer server.Close()
			s := settingsFor(t, server.URL, c.change)
			client := s.Client
			if client == nil {
				client = clientFor(t)
			}
			a, err := post(t.Context(), client, s, c.tenant, encodePush(streams))
			require.NoError(t, err)
			require.Equal(t, http.StatusNoContent, a.status)
			require.Empty(t, a.body)
			require.Equal(t, "POST /loki/api/v1/push", got.Method+" "+got.URL.Path)
			require.Equal(t, "application/x-protobuf", got.Header.Get("Content-Type"))
			require.Equal(t, "tenantgate", got.Header.Get("User-Agent"))
			require.Equal(t, c.authorization, got.Header.Get("Authorization"))
			require.NotContains(t, got.Header, "Idempotency-Key")
			require.Equal(t, c.tenant, strings.Join(got.Header["X-Scope-Orgid"], "?"))
			plain, err := s2.Decode(nil, body)
			require.NoError(t, err)
			require.Equal(t, appendPush(nil, streams), plain)
		})
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		http.Error(w, strings.Repeat("x", 10_000), http.StatusBadRequest)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	client := clientFor(t)
	for i := range 10 {
		if i == 5 {
			server.CloseClientConnections() // is no error: the request is repeated
		}
		a, err := post(t.Context(), client, settingsFor(t, server.URL), "", encodePush([]stream{lines("1", 10)}))
		require.NoError(t, err)
		require.Len(t, a.body, 10_001)
	}
	require.EqualValues(t, 2, connections.Load())
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		var requests atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			http.Redirect(w, r, "/elsewhere", status)
		}))
		defer server.Close()
		a, err := post(t.Context(), clientFor(t), settingsFor(t, server.URL), "", nil)
		require.NoError(t, err)
		require.Equal(t, status, a.status)
		require.EqualValues(t, 1, requests.Load())
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	endless := func(status string) func(net.Conn) {
		return func(conn net.Conn) {
			_, err := io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Type: text/plain\r\n\r\n")
			for err == nil {
				_, err = conn.Write(bytes.Repeat([]byte("y"), 4096))
			}
		}
	}
	stuck := func(status, body string) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Length: 100\r\n\r\n"+body)
			_, _ = io.Copy(io.Discard, conn) // until the client has gone
		}
	}
	cases := map[string]struct {
		answer func(net.Conn)
		status int // 0: an error
		body   int
	}{
		"a body that grows for ever":    {endless("400 Bad Request"), 400, maxAnswer + 1},
		"a success that grows for ever": {endless("200 OK"), 200, maxAnswer + 1},
		"a body that never ends":        {stuck("500 No", "y"), 500, maxAnswer + 1},
		"a success that never ends":     {stuck("200 OK", ""), 200, maxAnswer + 1},
		"half a body":                   {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad\r\nContent-Length: 9\r\n\r\nhalf") }, 400, maxAnswer + 1},
		"half a header":                 {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Le") }, 0, 0},
		"half a status":                 {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 20") }, 0, 0},
		"another protocol":              {func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n") }, 0, 0},
		"nothing":                       {func(net.Conn) {}, 0, 0},
		"nothing for ever":              {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, 0, 0},
		"a header that grows for ever": {func(c net.Conn) {
			_, err := io.WriteString(c, "HTTP/1.1 204 No Content\r\nX: ")
			for err == nil {
				_, err = io.WriteString(c, "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy")
			}
		}, 0, 0},
		"a hundred continues and then an end": {func(c net.Conn) {
			_, _ = io.WriteString(c, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 3)+"HTTP/1.1 204 No Content\r\n\r\n")
		}, 204, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, err := post(t.Context(), clientFor(t), settingsFor(t, raw(t, c.answer)), "", []byte("body"))
			if c.status == 0 {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.status, a.status)
			require.Len(t, a.body, c.body)
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listener.Close()
		_, err = post(t.Context(), clientFor(t), settingsFor(t, "http://"+listener.Addr().String()), "", nil)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
	t.Run("a name that nobody has", func(t *testing.T) {
		t.Parallel()
		_, err := post(t.Context(), clientFor(t), settingsFor(t, "http://nowhere.invalid"), "", nil)
		require.Error(t, err)
	})
}
