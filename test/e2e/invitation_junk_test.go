package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// cpu returns the processor time that the process has used. The kernel counts it
// in hundredths of a second (proc_pid_stat(5)).
func (p *Process) cpu(t *testing.T) time.Duration {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	require.NoError(t, err)
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:])) // from the third one
	user, err := strconv.Atoi(fields[14-3])
	require.NoError(t, err)
	system, err := strconv.Atoi(fields[15-3])
	require.NoError(t, err)
	return time.Duration(user+system) * time.Second / 100
}

// rss returns the memory of the process that is in RAM, in KiB.
func (p *Process) rss(t *testing.T) int {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(content), "VmRSS:")
	require.True(t, found)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n
}

// guesser tries tokens from one client address.
type guesser struct {
	url    string
	client *http.Client
	forged string // X-Forwarded-For, if any
}

// newGuesser returns one at an address of this machine: all of 127.0.0.0/8 is.
func newGuesser(url, address, forged string) *guesser {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &guesser{url, &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}, forged}
}

// junk returns a token that nobody was given. Every fourth has not even its form.
func junk(n int) string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	if n%4 == 3 {
		raw = raw[1:]
	}
	return "inv_" + base64.RawURLEncoding.EncodeToString(raw)
}

// guess tries the nth token and returns the status.
func (g *guesser) guess(ctx context.Context, n int) (int, error) {
	body, err := json.Marshal(map[string]string{"token": junk(n), "password": "plum tree river stone"})
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/api/invitations/accept/", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	if g.forged != "" {
		r.Header.Set("X-Forwarded-For", fmt.Sprintf(g.forged, n%256))
		r.Header.Set("X-Real-IP", fmt.Sprintf(g.forged, n%256))
		r.Header.Set("Forwarded", "for="+fmt.Sprintf(g.forged, n%256))
	}
	resp, err := g.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
		err = fmt.Errorf("429 without Retry-After")
	}
	return resp.StatusCode, err
}

// guessAll has the guessers take turns, a hundred times in a second, and returns
// how many of the answers had each status.
func guessAll(t *testing.T, guessers []*guesser, n int) map[int]int {
	t.Helper()
	var (
		mu       sync.Mutex
		statuses = map[int]int{}
		errs     []error
		next     atomic.Int64
		work     sync.WaitGroup
	)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 8 {
		work.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				<-tick.C
				status, err := guessers[i%len(guessers)].guess(t.Context(), i)
				mu.Lock()
				statuses[status]++
				if err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	require.Empty(t, errs)
	return statuses
}

// TestJunkTokensCostNothing sends a hundred tokens a second that nobody was
// given, from many client addresses and from one that claims to be many.
func TestJunkTokensCostNothing(t *testing.T) {
	besideOthers(t)
	dbtest.Each(t, func(t *testing.T, url string) {
		i := openInstallation(t, url)
		admin := i.Login(t, "admin@acme.test", Password)

		// What a hash costs: that of two accepts.
		const accepts = 2
		var tokens []string
		for n := range accepts {
			email := fmt.Sprintf("p%d@example.com", n)
			i.invite(t, admin, email)
			require.Eventually(t, func() bool { return i.number(t, `SELECT COUNT(*) FROM invitation_mails`) == 0 }, secs(10), ms(20))
			tokens = append(tokens, mailToken(t, i.Data, email))
		}
		before := i.backends.cpu(t)
		for _, token := range tokens {
			require.Equal(t, http.StatusCreated, i.accept(t, token).StatusCode)
		}
		hash := (i.backends.cpu(t) - before) / accepts

		var many []*guesser
		for n := range 100 {
			many = append(many, newGuesser(i.URL, fmt.Sprintf("127.7.0.%d", n+1), ""))
		}
		one := []*guesser{newGuesser(i.URL, "127.8.0.1", "203.0.113.%d")}
		t.Cleanup(func() {
			for _, g := range append(many, one...) {
				g.client.CloseIdleConnections()
			}
		})
		guessAll(t, many, len(many)) // connections and heap are there

		length := pick(6000, 200)
		for _, tt := range []struct {
			name     string
			guessers []*guesser
		}{{"many addresses", many}, {"one address", one}} {
			before, memory, began := i.backends.cpu(t), i.backends.rss(t), time.Now()
			statuses := guessAll(t, tt.guessers, length)
			took, cost, growth := time.Since(began), (i.backends.cpu(t)-before)/time.Duration(length), i.backends.rss(t)-memory
			t.Logf("%s: %d accepts in %v: %v; processor time of one %v, of one with a hash %v; memory %d KiB and %+d",
				tt.name, length, took.Round(ms(100)), statuses, cost, hash, memory, growth)
			require.Equal(t, length, statuses[http.StatusNotFound]+statuses[http.StatusTooManyRequests])
			if len(tt.guessers) == 1 {
				minutes := int(took/time.Minute) + 2 // windows that it may have met
				require.LessOrEqual(t, statuses[http.StatusNotFound], 120*minutes, "an address is not what a header says")
				require.Positive(t, statuses[http.StatusTooManyRequests])
			} else {
				require.Zero(t, statuses[http.StatusTooManyRequests], "nobody pays for others")
			}
			require.Less(t, cost, hash/4, "nothing is hashed")
			require.Less(t, growth, 48<<10)
		}
		require.Equal(t, accepts, i.number(t, `SELECT COUNT(*) FROM invitations WHERE status = 'accepted'`))
	})
}
