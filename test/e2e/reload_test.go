package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func secs(n int) time.Duration { return time.Duration(n) * time.Second }
func ms(n int) time.Duration   { return time.Duration(n) * time.Millisecond }

// TestFiftyReloadsUnderLoad reloads with the command that users call, while
// clients keep asking.
func TestFiftyReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	dev := StartDev(t, binaries)
	viewer := dev.Login(t, "viewer@acme.test", Password)
	for range 3 {
		require.Equal(t, http.StatusInternalServerError, Call(t, http.MethodGet, dev.URL+"/api/billing/?status=500", nil, viewer...).StatusCode)
	}
	open := Call(t, http.MethodGet, dev.URL+"/api/billing/", nil, viewer...)
	require.Equal(t, http.StatusServiceUnavailable, open.StatusCode)
	before, err := strconv.Atoi(open.Header.Get("Retry-After"))
	require.NoError(t, err)
	started := time.Now()

	reload := func() {
		cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "tenantgate"), "reload", "--config", "Caddyfile", "--force")
		cmd.Dir = root
		cmd.Env = os.Environ()
		for name, value := range dev.Env(t) {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	reload() // lazily started goroutines are there after one
	goroutinesBefore := settledGoroutines(t, dev, 0)

	var served, failed atomic.Int64
	var firstFailure atomic.Value
	stop := make(chan struct{})
	var clients sync.WaitGroup
	pause := pick(0, ms(10)) // else the clients take all that the machine has from the tests beside this one
	for range 4 {
		clients.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: secs(30)}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := get(client, dev.URL+"/api/permissions/dashboard/", viewer...); err != nil {
					failed.Add(1)
					firstFailure.CompareAndSwap(nil, err.Error())
				}
				served.Add(1)
				time.Sleep(pause)
			}
		})
	}
	for range 50 {
		reload()
	}
	close(stop)
	clients.Wait()
	require.Zero(t, failed.Load(), "of %d requests; the first: %v", served.Load(), firstFailure.Load())
	require.Greater(t, served.Load(), int64(50))

	still := Call(t, http.MethodGet, dev.URL+"/api/billing/", nil, viewer...)
	elapsed := int(time.Since(started).Seconds())
	if before-elapsed > 2 { // on a very slow machine the two minutes are over
		require.Equal(t, http.StatusServiceUnavailable, still.StatusCode, "an open circuit stays open")
		after, err := strconv.Atoi(still.Header.Get("Retry-After"))
		require.NoError(t, err)
		require.InDelta(t, before-elapsed, after, 2, "for the time that it had left")
	}
	reload() // closes the connections to upstreams that the load has left idle
	goroutinesAfter := settledGoroutines(t, dev, goroutinesBefore+2)
	t.Logf("%d requests served over 50 reloads, none failed; %d goroutines before, %d after", served.Load(), goroutinesBefore, goroutinesAfter)
}

// get returns the body of a 200; header is names and values in turn.
func get(client *http.Client, url string, header ...string) ([]byte, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

var goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)

// settledGoroutines waits until the process has no more goroutines than
// allowed (0: until the number stands still) and returns the number.
func settledGoroutines(t *testing.T, dev *Dev, allowed int) int {
	t.Helper()
	admin := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: secs(5)}
	last, still := -1, 0
	var profile []byte
	deadline := time.Now().Add(secs(30))
	for still < 5 && (allowed == 0 || last < 0 || last > allowed) {
		if time.Now().After(deadline) {
			require.FailNow(t, "goroutines are left", "%d allowed, %d found\n%s", allowed, last, profile)
		}
		time.Sleep(ms(100)) // between two samples of another process
		var err error
		profile, err = get(admin, "http://"+dev.Admin+"/debug/pprof/goroutine?debug=1")
		if err != nil { // the admin server has just been replaced
			t.Log(err)
			continue
		}
		found := goroutineTotal.FindSubmatch(profile)
		require.NotNil(t, found, "%s", profile)
		n, err := strconv.Atoi(string(found[1]))
		require.NoError(t, err)
		if n == last && allowed == 0 {
			still++
		} else {
			last, still = n, 0
		}
	}
	return last
}
