package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// The hosts that the third parties of these tests answer for.
const (
	authHost        = "auth-service.com"
	billingHost     = "billing-service.com"
	unmonitoredHost = "unmonitored.example"
)

// TestTheSidecar runs examples/sidecar as its README says, between a real
// application and third parties that exist in this process only.
func TestTheSidecar(t *testing.T) {
	t.Parallel()
	third := startThirdParties(t)
	sidecar := startSidecar(t, third)
	app := buildApp(t)

	t.Run("calls reach the third party by HTTPS, and one trace id runs through everything", func(t *testing.T) {
		calls := app.run(t, sidecar, "http://auth-service.com/tokens?q=1", "http://billing-service.com", "http://unmonitored.example/")
		require.Len(t, calls, 3)
		for i, host := range []string{authHost, billingHost, unmonitoredHost} {
			got := third.last(host)
			require.Equal(t, http.StatusOK, calls[i].status)
			require.Equal(t, host, got.TLS.ServerName)
			require.Equal(t, host, got.Host, "without a port, as the application wrote it")
			require.Contains(t, got.Header.Get("traceparent"), calls[i].trace)
			requireNothingAdded(t, got)

			line := sidecar.accessLine(t, calls[i].trace)
			require.Equal(t, host, line["host"])
			require.InDelta(t, 200, line["status"], 0)
			require.Equal(t, "sidecar", line["service"])
		}
		require.Equal(t, "/tokens?q=1", third.last(authHost).URL.RequestURI())
	})

	t.Run("the third failure cuts the domain off, and no other", func(t *testing.T) {
		third.answer(billingHost, http.StatusInternalServerError)
		before := third.hits(billingHost)
		billing := "http://billing-service.com/invoices"
		calls := app.run(t, sidecar, billing, billing, billing, billing, "http://auth-service.com/")
		for _, call := range calls[:3] {
			require.Equal(t, http.StatusInternalServerError, call.status, "what the third party said")
			require.Empty(t, call.retryAfter)
		}
		require.Equal(t, http.StatusServiceUnavailable, calls[3].status)
		seconds, err := strconv.Atoi(calls[3].retryAfter)
		require.NoError(t, err)
		require.InDelta(t, 120, seconds, 30)
		require.Equal(t, before+3, third.hits(billingHost), "the fourth call stays here")
		require.Equal(t, http.StatusOK, calls[4].status)

		third.answer(billingHost, http.StatusOK)
		for _, spelling := range []string{"http://billing-service.com:443/", "http://billing-service.com:80/"} {
			refused := sidecar.get(t, spelling)
			require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode, spelling)
			require.Equal(t, "application/problem+json", refused.Header.Get("Content-Type"))
			require.Equal(t, "circuit-open", refused.JSON(t)["code"])
			require.Equal(t, refused.Header.Get("Retry-After"), fmt.Sprint(refused.JSON(t)["retry_after"]))
			require.Equal(t, refused.Header.Get("X-Trace-Id"), refused.JSON(t)["trace_id"])
		}
		require.Equal(t, before+3, third.hits(billingHost))
		line := sidecar.line(t, func(line map[string]any) bool { return line["msg"] == "circuit opened" })
		require.Equal(t, "third-party", line["breaker"])
		require.Contains(t, line["upstream"], billingHost)
		sidecar.line(t, func(line map[string]any) bool {
			return line["msg"] == "request blocked" && line["trace_id"] == calls[3].trace
		})
	})

	t.Run("a domain that is not monitored may fail for ever", func(t *testing.T) {
		third.answer(unmonitoredHost, http.StatusInternalServerError)
		before := third.hits(unmonitoredHost)
		target := "http://unmonitored.example/"
		for _, call := range app.run(t, sidecar, target, target, target, target, target) {
			require.Equal(t, http.StatusInternalServerError, call.status)
		}
		require.Equal(t, before+5, third.hits(unmonitoredHost))
	})

	t.Run("a request in origin form goes where its Host says", func(t *testing.T) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sidecar.url+"/direct", strings.NewReader("body"))
		require.NoError(t, err)
		r.Host = authHost
		resp, err := client.Do(r)
		require.NoError(t, err)
		_ = resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "/direct", third.last(authHost).URL.Path)
		require.Equal(t, "body", third.last(authHost).body)
	})

	t.Run("a port that is named is called, also by HTTPS", func(t *testing.T) {
		host := net.JoinHostPort(authHost, third.port)
		require.Equal(t, http.StatusOK, sidecar.get(t, "http://"+host+"/named").StatusCode)
		require.Equal(t, host, third.last(authHost).Host)
		require.Equal(t, authHost, third.last(authHost).TLS.ServerName)
	})

	t.Run("headers between application and sidecar end here", func(t *testing.T) {
		answer := sidecar.get(t, "http://auth-service.com/", "Proxy-Authorization", "Basic x", "Proxy-Connection", "keep-alive",
			"X-Forwarded-For", "10.1.2.3", "Forwarded", "for=10.1.2.3", "X-User-Id", "7", "X-Tenant-Id", "1", "X-Gateway-Secret", "s",
			"Authorization", "Bearer for-them", "traceparent", traceparent)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.Equal(t, traceID, answer.Header.Get("X-Trace-Id"), "the application's own trace goes on")
		got := third.last(authHost)
		require.Equal(t, "Bearer for-them", got.Header.Get("Authorization"))
		require.Contains(t, got.Header.Get("traceparent"), traceID)
		requireNothingAdded(t, got)
	})

	t.Run("what is not a third party's name is refused", func(t *testing.T) {
		_, port, err := net.SplitHostPort(strings.TrimPrefix(sidecar.url, "http://"))
		require.NoError(t, err)
		for _, host := range []string{"127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port, "169.254.169.254", "2130706433", "billing-service.com."} {
			answer := sidecar.get(t, "http://"+host+"/")
			require.Equal(t, http.StatusMisdirectedRequest, answer.StatusCode, host)
			require.Equal(t, "application/problem+json", answer.Header.Get("Content-Type"))
			require.Equal(t, answer.Header.Get("X-Trace-Id"), answer.JSON(t)["trace_id"])
		}
		answer := sidecar.raw(t, "GET / HTTP/1.0\r\n\r\n")
		require.Equal(t, http.StatusMisdirectedRequest, answer.StatusCode, "no host at all")
	})

	t.Run("a name that leads back to the sidecar is no loop", func(t *testing.T) {
		_, port, err := net.SplitHostPort(strings.TrimPrefix(sidecar.url, "http://"))
		require.NoError(t, err)
		answer := sidecar.get(t, "http://unmonitored.example:"+port+"/")
		require.Equal(t, http.StatusBadGateway, answer.StatusCode, "it calls by HTTPS and answers by HTTP")
	})

	t.Run("a tunnel is refused, by the sidecar and before that by the application", func(t *testing.T) {
		answer := sidecar.raw(t, "CONNECT auth-service.com:443 HTTP/1.1\r\nHost: auth-service.com:443\r\n\r\n")
		require.Equal(t, http.StatusNotImplemented, answer.StatusCode)
		require.Contains(t, answer.JSON(t)["detail"], "no tunnels")

		out, err := app.command(t, sidecar.url, "https://auth-service.com/").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "write http:// in place of https://")
		out, err = app.command(t, "127.0.0.1:8081", "http://auth-service.com/").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), `SIDECAR is "127.0.0.1:8081": set it to an address such as`)
	})

	require.Equal(t, 0, sidecar.Stop(t, syscall.SIGTERM))
	out, err := app.command(t, sidecar.url, "http://auth-service.com/").CombinedOutput()
	require.Error(t, err, "nothing goes past a sidecar that is down: %s", out)
}

// TestTheSidecarTakesItsSettingsFromTheEnvironment sets all four, and sees the
// circuit close again.
func TestTheSidecarTakesItsSettingsFromTheEnvironment(t *testing.T) {
	t.Parallel()
	third := startThirdParties(t)
	sidecar := startSidecar(t, third, "FAILURE_THRESHOLD=2", "FAILURE_WINDOW=30s", "BLOCK_TIME=2s", "MONITORED_DOMAINS=*.example")
	target := "http://unmonitored.example/"

	third.answer(unmonitoredHost, http.StatusServiceUnavailable)
	for range 2 {
		require.Empty(t, sidecar.get(t, target).Header.Get("Retry-After"))
	}
	refused := sidecar.get(t, target)
	require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
	require.Contains(t, []string{"1", "2"}, refused.Header.Get("Retry-After"))
	require.Equal(t, 2, third.hits(unmonitoredHost))

	third.answer(unmonitoredHost, http.StatusOK)
	require.Eventually(t, func() bool { return sidecar.get(t, target).StatusCode == http.StatusOK }, secs(20), ms(50))
	require.Equal(t, 3, third.hits(unmonitoredHost), "the first call that got through closed the circuit")

	for range 2 {
		require.Equal(t, http.StatusBadGateway, sidecar.get(t, "http://down.example/").StatusCode, "there is no such name")
	}
	require.Equal(t, http.StatusServiceUnavailable, sidecar.get(t, "http://down.example/").StatusCode)

	third.answer(billingHost, http.StatusInternalServerError)
	for range 5 {
		require.Equal(t, http.StatusInternalServerError, sidecar.get(t, "http://billing-service.com/").StatusCode, "not monitored here")
	}
}

// requireNothingAdded requires that a third party learns nothing of what is
// behind a call, but for the trace.
func requireNothingAdded(t *testing.T, got received) {
	t.Helper()
	known := []string{"Accept-Encoding", "Authorization", "Traceparent", "Tracestate", "User-Agent", "X-Request-Id", "X-Trace-Id"}
	for name := range got.Header {
		require.Contains(t, known, name)
	}
}

// received is a request as a third party got it.
type received struct {
	*http.Request
	body string
}

// thirdParties are HTTPS services for three hosts on one loopback address, with
// a name server that leads there and a certificate authority of their own.
type thirdParties struct {
	port, nameServer, ca string

	mu       sync.Mutex
	status   map[string]int
	requests map[string][]received
}

func startThirdParties(t *testing.T) *thirdParties {
	t.Helper()
	hosts := []string{authHost, billingHost, unmonitoredHost}
	p := &thirdParties{
		nameServer: startNameServer(t, hosts),
		ca:         filepath.Join(t.TempDir(), "ca.pem"),
		status:     map[string]int{},
		requests:   map[string][]received{},
	}
	server := httptest.NewUnstartedServer(p)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{issueCertificate(t, p.ca, hosts)}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	p.port = port
	return p
}

// ServeHTTP answers with the status that was asked for, or 200.
func (p *thirdParties) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	host := r.TLS.ServerName
	p.mu.Lock()
	p.requests[host] = append(p.requests[host], received{r, string(body)})
	status, ok := p.status[host]
	p.mu.Unlock()
	if !ok {
		status = http.StatusOK
	}
	w.WriteHeader(status)
}

// answer makes a host answer with a status from now on.
func (p *thirdParties) answer(host string, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status[host] = status
}

// hits returns how many requests a host got.
func (p *thirdParties) hits(host string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.requests[host])
}

// last returns the newest request that a host got.
func (p *thirdParties) last(host string) received {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.requests[host]
	if len(all) == 0 {
		return received{Request: &http.Request{TLS: &tls.ConnectionState{}, URL: &url.URL{}}}
	}
	return all[len(all)-1]
}

// issueCertificate returns a certificate for the hosts and writes that of its
// issuer to the file ca.
func issueCertificate(t *testing.T, ca string, hosts []string) tls.Certificate {
	t.Helper()
	now := time.Now()
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	issuer := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, issuer, issuer, issuerKey.Public(), issuerKey)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: hosts, NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter}
	der, err = x509.CreateCertificate(rand.Reader, leaf, issuer, key.Public(), issuerKey)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// startNameServer answers for the hosts with 127.0.0.1, and denies that there
// are others. It returns its address.
func startNameServer(t *testing.T, hosts []string) string {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		query := make([]byte, 1500)
		for {
			n, from, err := socket.ReadFrom(query)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if answer, ok := resolve(query[:n], hosts); err == nil && ok {
				_, _ = socket.WriteTo(answer, from) // who asked will ask again
			}
		}
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
	return socket.LocalAddr().String()
}

// resolve returns the answer to a query.
func resolve(query []byte, hosts []string) ([]byte, bool) {
	var message dnsmessage.Message
	if err := message.Unpack(query); err != nil || len(message.Questions) != 1 {
		return nil, false
	}
	question := message.Questions[0]
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: message.ID, Response: true, Authoritative: true, RecursionAvailable: true},
		Questions: message.Questions,
	}
	switch {
	case !slices.Contains(hosts, strings.TrimSuffix(question.Name.String(), ".")):
		answer.RCode = dnsmessage.RCodeNameError
	case question.Type == dnsmessage.TypeA:
		answer.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	packed, err := answer.Pack()
	return packed, err == nil
}

// sidecarProcess is a running sidecar.
type sidecarProcess struct {
	*Process
	url   string
	proxy *http.Client // sends everything through it
}

// startSidecar runs the example's Caddyfile as it is, with the variables that
// lead to the third parties of the test.
func startSidecar(t *testing.T, third *thirdParties, env ...string) *sidecarProcess {
	t.Helper()
	address := FreeAddress(t)
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	env = append([]string{
		"SIDECAR_PORT=" + port, "TENANTGATE_ADMIN=" + FreeAddress(t), "UPSTREAM_PORT=" + third.port,
		"TRANSPORT_OPTIONS=resolvers " + third.nameServer + "\ntls_trust_pool file " + third.ca,
		"HTTPS_PROXY=", "https_proxy=", // of the machine that runs the test
	}, env...)
	p := Start(t, root, env, filepath.Join(binaries, "tenantgate"), "run", "--config", "examples/sidecar/Caddyfile")
	p.WaitFor(t, "serving initial configuration")
	s := &sidecarProcess{Process: p, url: "http://" + address}
	proxy, err := url.Parse(s.url)
	require.NoError(t, err)
	transport := &http.Transport{Proxy: http.ProxyURL(proxy)}
	t.Cleanup(transport.CloseIdleConnections)
	s.proxy = &http.Client{Transport: transport, Timeout: secs(30)}
	return s
}

// get sends a request through the sidecar; header is names and values in turn.
func (s *sidecarProcess) get(t *testing.T, target string, header ...string) Answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return readAnswer(t)(s.proxy.Do(r))
}

// raw sends bytes to the sidecar and returns the answer.
func (s *sidecarProcess) raw(t *testing.T, request string) Answer {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(secs(30))))
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	return readAnswer(t)(http.ReadResponse(bufio.NewReader(conn), nil))
}

// readAnswer returns a function that reads a response to its end.
func readAnswer(t *testing.T) func(*http.Response, error) Answer {
	t.Helper()
	return func(resp *http.Response, err error) Answer {
		t.Helper()
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return Answer{resp, body}
	}
}

// line waits for the log line that fits and returns its fields.
func (s *sidecarProcess) line(t *testing.T, fits func(map[string]any) bool) map[string]any {
	t.Helper()
	var found map[string]any
	require.Eventually(t, func() bool {
		for text := range strings.Lines(s.Stdout.String()) {
			var line map[string]any
			if json.Unmarshal([]byte(text), &line) == nil && fits(line) {
				found = line
				return true
			}
		}
		return false
	}, secs(10), ms(20), "no such line")
	return found
}

// accessLine waits for the access line of a trace.
func (s *sidecarProcess) accessLine(t *testing.T, trace string) map[string]any {
	t.Helper()
	return s.line(t, func(line map[string]any) bool {
		return line["msg"] == "handled request" && line["trace_id"] == trace
	})
}

// application is the example's application, built.
type application struct{ binary string }

func buildApp(t *testing.T) application {
	t.Helper()
	a := application{filepath.Join(t.TempDir(), "app")}
	cmd := exec.CommandContext(t.Context(), "go", "build", raceFlag, "-o", a.binary, "./examples/sidecar/app")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return a
}

// command returns the application, ready to run.
func (a application) command(t *testing.T, sidecar string, urls ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), a.binary, urls...)
	cmd.Env = append(os.Environ(), "SIDECAR="+sidecar)
	return cmd
}

// outcome is what the application printed about one call.
type outcome struct {
	status            int
	trace, retryAfter string
}

var outcomeLine = regexp.MustCompile(`^(\S+)  (\d{3}) .*  trace ([0-9a-f]{32})(?:  retry after (\d+) s)?$`)

// run runs the application and returns what it printed.
func (a application) run(t *testing.T, s *sidecarProcess, urls ...string) []outcome {
	t.Helper()
	cmd := a.command(t, s.url, urls...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", &stderr)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, len(urls), "%s", out)
	outcomes := make([]outcome, len(lines))
	for i, line := range lines {
		match := outcomeLine.FindStringSubmatch(line)
		require.NotNil(t, match, line)
		require.Equal(t, urls[i], match[1])
		status, err := strconv.Atoi(match[2])
		require.NoError(t, err)
		outcomes[i] = outcome{status, match[3], match[4]}
	}
	return outcomes
}
