// Command app is an application that calls third-party APIs through a sidecar.
//
//	go run ./examples/sidecar/app [<url>...]
//
// It calls each URL in turn, in the order given, and prints what it got: the
// status, the trace id under which the sidecar has logged the call, and how long
// to stay away from a service whose circuit is open. SIDECAR is the sidecar's
// address, by default http://127.0.0.1:8081.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"time"
)

// defaults are the calls of an application that was given none.
var defaults = []string{"http://auth-service.com/", "http://billing-service.com/", "http://example.com/"}

// timeout must be longer than the sidecar's RESPONSE_TIMEOUT: a call that the
// application gives up first says nothing about the service, and counts as no
// failure.
const timeout = 15 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, cmp.Or(os.Getenv("SIDECAR"), "http://127.0.0.1:8081"), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1) //nolint:forbidigo // a program ends itself
	}
}

// run calls every URL, even after one has failed, and prints a line for each.
func run(ctx context.Context, out io.Writer, sidecar string, urls []string) error {
	client, err := newClient(sidecar)
	if err != nil {
		return err
	}
	if len(urls) == 0 {
		urls = defaults
	}
	var failed []error
	for _, target := range urls {
		result, err := call(ctx, client, target)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if _, err := fmt.Fprintf(out, "%s  %s\n", target, result); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// newClient returns a client that sends http:// URLs through the sidecar, which
// takes them on by HTTPS. For https:// URLs it would ask for a tunnel, in which a
// sidecar sees nothing; they are refused here, with a clearer error.
func newClient(sidecar string) (*http.Client, error) {
	proxy, err := url.Parse(sidecar)
	if err != nil || proxy.Scheme != "http" || proxy.Host == "" {
		return nil, fmt.Errorf("SIDECAR is %q: set it to an address such as http://127.0.0.1:8081", sidecar)
	}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{Proxy: func(r *http.Request) (*url.URL, error) {
			if r.URL.Scheme != "http" {
				return nil, errors.New("write http:// in place of https://: the sidecar uses HTTPS on its way out")
			}
			return proxy, nil
		}},
		// An API that answers with a redirect names https://, past the sidecar.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// call sends one request and describes the answer.
func call(ctx context.Context, client *http.Client, target string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody) //nolint:gosec // calling what it is told to is its job
	if err != nil {
		return "", err
	}
	res, err := client.Do(r) //nolint:gosec // see above
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil { // read to the end, so that the connection is used again
		return "", fmt.Errorf("read the answer of %s: %w", target, err)
	}
	text := fmt.Sprintf("%s  trace %s", res.Status, cmp.Or(res.Header.Get("X-Trace-Id"), "unknown"))
	if wait := res.Header.Get("Retry-After"); res.StatusCode == http.StatusServiceUnavailable && wait != "" {
		text += fmt.Sprintf("  retry after %s s", wait)
	}
	return text, nil
}
