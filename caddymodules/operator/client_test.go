package operator_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
)

// clientOf returns a client for the address.
func clientOf(address string) operator.Client {
	return operator.Client{Address: address, Flag: "--address", Subject: "tests", Hint: " start it", Timeout: time.Minute}
}

func TestTheAddressesOfAnAdminAPI(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"localhost:2019":          "tcp localhost:2019",
		":2019":                   "tcp localhost:2019",
		"tcp/localhost:2019":      "tcp localhost:2019",
		"tcp6/[::1]:2019":         "tcp6 [::1]:2019",
		"[::1]:2019":              "tcp [::1]:2019",
		"unix//run/gate.sock":     "unix /run/gate.sock",
		"unix/gate.sock":          "unix gate.sock",
		"unix//run/s|0600":        "unix /run/s",
		"unix+h2c//run/gate.sock": "unix /run/gate.sock",
		"":                        "",
		"nowhere":                 "",
		"localhost:0":             "",
		"localhost:":              "",
		"localhost:http":          "",
		"localhost:1-5":           "",
		"localhost:5-1":           "",
		"localhost:70000":         "",
	} {
		network, dial, err := clientOf(address).DialAddress()
		if want != "" {
			require.NoError(t, err, address)
			require.Equal(t, want, network+" "+dial, address)
			continue
		}
		require.ErrorAs(t, err, new(operator.UsageError), address)
		require.EqualError(t, err, "--address "+address+" is no address of an admin API: give host:port or unix//path")
	}
	c := clientOf("nowhere")
	c.Named = strconv.Quote(c.Address)
	require.EqualError(t, c.Call(t.Context(), http.MethodGet, "/", nil, nil), `"nowhere" is no address of an admin API: give host:port or unix//path`)

	err := clientOf("local host:1").Call(t.Context(), http.MethodGet, "/", nil, nil)
	require.ErrorAs(t, err, new(operator.UsageError))
	require.EqualError(t, err, "--address local host:1 is no address: give host:port or unix//path")
}

// FuzzAddress: what is accepted can be dialled: a socket, or a host and a port.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"localhost:2019", ":1", "unix//run/s|0600", "tcp6/[::1]:2019", "nowhere", "localhost:1-5", "unix/", "a:0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		network, dial, err := clientOf(address).DialAddress()
		if err != nil {
			require.ErrorAs(t, err, new(operator.UsageError))
			return
		}
		if network == "unix" {
			require.NotContains(t, dial, "|")
			return
		}
		host, port, err := net.SplitHostPort(dial)
		require.NoError(t, err)
		require.NotEmpty(t, host)
		n, err := strconv.Atoi(port)
		require.NoError(t, err)
		require.True(t, 0 < n && n <= 65535, dial)
	})
}

func TestWhatACallSends(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, strings.Join([]string{
			r.Method, r.RequestURI, r.Host, r.Header.Get("Origin"), r.Header.Get("Content-Type"), string(body), strconv.FormatBool(r.Close),
		}, "|"))
	})
	tcp := httptest.NewServer(handler)
	defer tcp.Close()
	host := tcp.Listener.Addr().String()

	dir, err := os.MkdirTemp("", "op") // t.TempDir can be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	socket := httptest.NewUnstartedServer(handler)
	require.NoError(t, socket.Listener.Close())
	socket.Listener, err = new(net.ListenConfig).Listen(t.Context(), "unix", path)
	require.NoError(t, err)
	socket.Start()
	defer socket.Close()

	for name, test := range map[string]struct {
		address, method string
		body            []byte
		want            string
	}{
		"a question":               {host, http.MethodGet, nil, "GET|/x?y=z|" + host + "|http://" + host + "|||true"},
		"an order":                 {host, http.MethodPost, []byte("{}"), "POST|/x?y=z|" + host + "|http://" + host + "|application/json|{}|true"},
		"a question over a socket": {"unix/" + path + "|0600", http.MethodGet, nil, "GET|/x?y=z|127.0.0.1||||true"},
		"an order over a socket":   {"unix/" + path, http.MethodPost, []byte("{}"), "POST|/x?y=z|127.0.0.1||application/json|{}|true"},
	} {
		var got string
		require.NoError(t, clientOf(test.address).Call(t.Context(), test.method, "/x?y=z", test.body, func(answer []byte) bool {
			got = string(answer)
			return true
		}), name)
		require.Equal(t, test.want, got, name)
	}
}

func TestWhatAnAnswerCanBe(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			_, _ = io.WriteString(w, `{"name":"a"}`)
		case "/refused":
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"error":"not now"}`)
		case "/nothing-said":
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"name":"a","error":""}`)
		case "/error-with-200":
			_, _ = io.WriteString(w, `{"error":"not now"}`)
		case "/redirect":
			http.Redirect(w, r, "/good", http.StatusFound)
		case "/broken":
			w.Header().Set("Content-Length", "100")
		case "/slow":
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	const stranger = " and knows nothing of tests: is it Tenantgate's?"
	for path, want := range map[string]string{
		"/good":           "",
		"/refused":        "not now",
		"/nothing-said":   "the admin API at " + address + " answers 409" + stranger,
		"/error-with-200": "the admin API at " + address + " answers 200" + stranger,
		"/redirect":       "the admin API at " + address + " answers 302" + stranger,
		"/none":           "the admin API at " + address + " answers 404" + stranger,
		"/broken":         "the admin API at " + address + " broke off: unexpected EOF",
		"/slow":           "the admin API at " + address + " can't be reached (no answer in time): is the gateway running? start it",
	} {
		c := clientOf(address)
		if path == "/slow" {
			c.Timeout = 50 * time.Millisecond
		}
		var got struct{ Name string }
		err := c.Call(t.Context(), http.MethodGet, path, nil, func(answer []byte) bool {
			return json.Unmarshal(answer, &got) == nil && got.Name != ""
		})
		if want != "" {
			require.EqualError(t, err, want)
			require.NotErrorAs(t, err, new(operator.UsageError), path)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "a", got.Name)
	}

	gone := filepath.Join(t.TempDir(), "gone")
	for address, cause := range map[string]string{"localhost:1": "connection refused", "unix/" + gone: "no such file or directory"} {
		err := clientOf(address).Call(t.Context(), http.MethodGet, "/", nil, nil)
		require.EqualError(t, err, "the admin API at "+address+" can't be reached ("+cause+"): is the gateway running? start it")
	}
}

func TestARefusalHasItsStatusAndText(t *testing.T) {
	t.Parallel()
	err := operator.Refusal(http.StatusConflict, "not %d: %w", 1, io.EOF)
	var refusal caddy.APIError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusConflict, refusal.HTTPStatus)
	require.EqualError(t, refusal.Err, "not 1: EOF")
	require.ErrorIs(t, refusal.Err, io.EOF)
}
