package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// TestHardening_GHSAc4v7xg93qf8g_CVE202445336_CWE918_RedirectsAreNotFollowed: a
// receiver must not send us on, into our own network (Gogs) or with our
// credentials to another host (net/http), whatever the client was made for.
func TestHardening_GHSAc4v7xg93qf8g_CVE202445336_CWE918_RedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	for _, code := range []int{301, 302, 303, 307, 308} {
		for name, client := range map[string]*http.Client{
			"our client": nil,
			"a client that follows": {
				Transport:     &http.Transport{},
				CheckRedirect: func(*http.Request, []*http.Request) error { return nil },
			},
		} {
			t.Run(fmt.Sprintf("%d with %s", code, name), func(t *testing.T) {
				t.Parallel()
				var other receiver
				elsewhere := httptest.NewServer(&other)
				defer elsewhere.Close()
				f := newFixture(t, dbtest.SQLite(t), func(c *webhook.Config) { c.Client = client })
				target := elsewhere.URL
				f.receiver.answerWith(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target, code) })
				run(t, f.outbox)
				f.enqueue(t, "x", nil)
				want := "answered " + strconv.Itoa(code) + ": redirects are not followed"
				require.Equal(t, want, f.settled(t, 1).lastError)
				require.Empty(t, other.got())
				require.Len(t, f.receiver.got(), 1)

				target = "/elsewhere" // of the same host
				f.clock.Advance(time.Minute)
				f.outbox.Wake()
				require.Equal(t, want, f.settled(t, 2).lastError)
				require.Len(t, f.receiver.got(), 2)
			})
		}
	}
}

// TestHardening_CWE532_NoLineAndNoRowHoldsASecret has receivers that repeat all
// that they got, in every part of an answer.
func TestHardening_CWE532_NoLineAndNoRowHoldsASecret(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(echo string) string{
		"a body":        func(echo string) string { return "HTTP/1.1 500 Oops\r\nContent-Length: 9999\r\n\r\n" + echo },
		"a status text": func(echo string) string { return "HTTP/1.1 400 " + echo + "\r\n\r\n" },
		"a header":      func(echo string) string { return "HTTP/1.1 429 x\r\nRetry-After: " + echo + "\r\n\r\n" },
		"a redirect":    func(echo string) string { return "HTTP/1.1 307 x\r\nLocation: http://" + echo + "/\r\n\r\n" },
		"an odd header": func(echo string) string { return "HTTP/1.1 200 x\r\n" + echo + "\r\n\r\n" },
		"no HTTP":       func(echo string) string { return echo + "\r\n\r\n" },
		"given up":      func(echo string) string { return "HTTP/1.1 410 " + echo + "\r\n\r\n" + echo },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, dbtest.SQLite(t), func(c *webhook.Config) {
				c.URL = strings.Replace(c.URL, "//", "//Us3rName:P4ssWord@", 1) + "/p4thToken?key=Qu3ryToken"
			})
			f.receiver.answerWith(func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				echo := fmt.Sprint(r.Header, r.URL, "P4ssWord")
				_, _ = io.WriteString(conn, answer(strings.NewReplacer("\r", "", "\n", "").Replace(echo)))
			})
			run(t, f.outbox)
			f.enqueue(t, "x", "D4taOfTheEvent")
			r := f.settled(t, 1)
			require.NotEmpty(t, f.receiver.got())
			got := f.receiver.got()[0]
			require.Contains(t, got.path, "Qu3ryToken")
			require.Eventually(t, func() bool { return f.log.String() != "" }, patience, 5*time.Millisecond, "the failure is logged")
			where := f.log.String() + r.lastError
			for _, signature := range strings.Fields(got.header.Get("webhook-signature")) {
				require.NotContains(t, where, strings.TrimPrefix(signature, "v1,"))
			}
			for _, word := range []string{
				"Us3rName", "P4ssWord", "p4thToken", "Qu3ryToken", "D4taOfTheEvent", "Oops", "Basic", "whsec_",
				strings.TrimPrefix(got.header.Get("Authorization"), "Basic "), f.receiver.Listener.Addr().String(),
			} {
				require.NotEmpty(t, word)
				require.NotContains(t, where, word)
			}
		})
	}
}

// TestHardening_CWE770_AnEndlessAnswerCostsNothing reads neither a body nor
// headers without end.
func TestHardening_CWE770_AnEndlessAnswerCostsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	var written atomic.Int64
	endless := func(w io.Writer, piece string) {
		for {
			n, err := io.WriteString(w, strings.Repeat(piece, 4096))
			written.Add(int64(n))
			if err != nil || written.Load() > 1<<30 {
				return
			}
		}
	}
	f.receiver.answerWith(func(w http.ResponseWriter, _ *http.Request) { endless(w, "bodybody") })
	run(t, f.outbox)
	f.enqueue(t, "x", nil)
	f.wait(t, "webhook delivered", 1) // it said 200
	f.empty(t)
	require.Less(t, written.Load(), int64(64<<20), "what fits into the buffers of the connection")

	written.Store(0)
	f.receiver.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		endless(conn, "a: b\r\n")
	})
	f.enqueue(t, "x", nil)
	require.Equal(t, "no valid answer", f.settled(t, 1).lastError)
	require.Less(t, written.Load(), int64(64<<20))
}

// TestHardening_CWE294_AReplayIsRefused: neither later nor under another time or id.
func TestHardening_CWE294_AReplayIsRefused(t *testing.T) {
	t.Parallel()
	later := exampleTime.Add(time.Hour)
	verify := func(change func(http.Header)) error {
		h := exampleHeader()
		change(h)
		return webhook.Verify([]secret.String{exampleSecret}, h, []byte(exampleBody), later, webhook.DefaultTolerance)
	}
	require.ErrorContains(t, verify(func(http.Header) {}), "more than 5m0s away")
	fresh := strconv.FormatInt(later.Unix(), 10)
	require.ErrorContains(t, verify(func(h http.Header) { h.Set("webhook-timestamp", fresh) }), "no signature")
	require.ErrorContains(t, verify(func(h http.Header) { h.Add("webhook-timestamp", fresh) }), "want one header webhook-timestamp, not 2")
	h := exampleHeader()
	h.Set("webhook-id", "msg_other")
	require.ErrorContains(t, webhook.Verify([]secret.String{exampleSecret}, h, []byte(exampleBody), exampleTime, webhook.DefaultTolerance), "no signature")
}

// TestHardening_CWE347_NothingElsePassesForASignature.
func TestHardening_CWE347_NothingElsePassesForASignature(t *testing.T) {
	t.Parallel()
	bare := strings.TrimPrefix(exampleSignature, "v1,")
	empty := func(key string) string {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(exampleID + "." + strconv.Itoa(exampleSeconds) + "." + exampleBody))
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	for _, signature := range []string{
		"", " ", "v1", "v1,", ",", bare, "v0," + bare, "v2," + bare, "V1," + bare, "v1a," + bare, "v1=" + bare, "v1, " + bare,
		"v1," + bare + ",", "v1," + bare[:len(bare)-1], "v1," + bare + "=", "v1," + strings.ToLower(bare),
		"v1," + strings.NewReplacer("+", "-", "/", "_").Replace(bare), "v1," + bare[:42] + "F=",
		exampleSignature + "\t", exampleSignature + "\u00a0x", empty(""), empty(exampleSecret.Reveal()), empty("whsec_"),
	} {
		h := exampleHeader()
		h.Set("webhook-signature", signature)
		require.Error(t, webhook.Verify([]secret.String{exampleSecret}, h, []byte(exampleBody), exampleTime, webhook.DefaultTolerance), "%q", signature)
	}
	for _, body := range []string{"", exampleBody + "\n", " " + exampleBody, exampleBody[1:], strings.ReplaceAll(exampleBody, " ", "")} {
		require.ErrorContains(t, webhook.Verify([]secret.String{exampleSecret}, exampleHeader(), []byte(body), exampleTime, webhook.DefaultTolerance), "no signature")
	}
	for name, values := range map[string][]string{
		"webhook-id":        {"", "msg.1", exampleID + " ", strings.ToLower(exampleID)},
		"webhook-timestamp": {"", "+" + strconv.Itoa(exampleSeconds), "0" + strconv.Itoa(exampleSeconds), strconv.Itoa(exampleSeconds) + ".0", "-1", "9223372036854775807", "18446744073709551615", "NaN"},
	} {
		for _, value := range values {
			h := exampleHeader()
			h.Set(name, value)
			require.Error(t, webhook.Verify([]secret.String{exampleSecret}, h, []byte(exampleBody), exampleTime, webhook.DefaultTolerance), "%s: %q", name, value)
		}
		h := exampleHeader()
		h.Del(name)
		require.ErrorContains(t, webhook.Verify([]secret.String{exampleSecret}, h, []byte(exampleBody), exampleTime, webhook.DefaultTolerance), "want one header "+name+", not 0")
	}
}

// TestHardening_CWE345_APartMovedOverAFullStopIsRefused: the parts of what is
// signed are separated by full stops only.
func TestHardening_CWE345_APartMovedOverAFullStopIsRefused(t *testing.T) {
	t.Parallel()
	seconds := strconv.Itoa(exampleSeconds)
	mac := hmac.New(sha256.New, []byte("the newest of our secrets, 32 B."))
	mac.Write([]byte("id." + seconds + "." + seconds + ".body"))
	signature := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	verify := func(id, body string) error {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {seconds}, "Webhook-Signature": {signature}}
		return webhook.Verify(secrets, h, []byte(body), exampleTime, webhook.DefaultTolerance)
	}
	require.NoError(t, verify("id", seconds+".body"))
	require.ErrorContains(t, verify("id."+seconds, "body"), "full stop")
}

// TestHardening_CWE113_NoEventChangesTheRequest: types and data are texts of others.
func TestHardening_CWE113_NoEventChangesTheRequest(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	run(t, f.outbox)
	const odd = "x\r\nX-Evil: 1\r\n\r\n\",\"tenant_id\":2,\"\u2028\x00\xff"
	f.enqueue(t, odd, map[string]string{odd: odd})
	f.empty(t)
	require.Len(t, f.receiver.got(), 1)
	got := f.receiver.got()[0]
	require.NotContains(t, got.header, "X-Evil")
	require.NoError(t, webhook.Verify(secrets, got.header, got.body, f.clock.Now(), webhook.DefaultTolerance))
	require.Contains(t, string(got.body), `","tenant_id":1,"data":{"`)
	f.wait(t, "webhook delivered", 1)
	require.Equal(t, 1, strings.Count(f.log.String(), "\n"), "one line")
	parsed, err := url.Parse(f.config.URL)
	require.NoError(t, err)
	require.Equal(t, parsed.Path, got.path)
}
