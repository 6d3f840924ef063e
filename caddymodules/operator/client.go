package operator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Client calls the admin API of a running gateway.
type Client struct {
	// Address is where the API listens: host:port or unix//path.
	Address string
	// Flag is the flag that gives the address. Named is how to name what is no
	// address if it need not be from there; empty: the flag and what it gives.
	Flag, Named string
	// Subject is what the called part of the API tells of. Hint is what more to
	// do when the gateway can't be reached, with a space before it.
	Subject, Hint string
	// Timeout bounds a call.
	Timeout time.Duration
}

// Call calls the admin API and gives the answer to read, which reports whether
// it is one. A refusal is the error that the API tells. Unlike
// caddycmd.AdminAPIRequest it ends with ctx and its time, and leaves no
// connection behind.
func (c Client) Call(ctx context.Context, method, path string, body []byte, read func(answer []byte) bool) error {
	network, dial, err := c.dialAddress()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	host := dial
	if network == "unix" {
		host = "127.0.0.1" // there is none, but a URL must have one
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, bytes.NewReader(body))
	if err != nil {
		return Usagef("%s %s is no address: give host:port or unix//path", c.Flag, c.Address)
	}
	if network != "unix" { // the API asks for it there, and allows none here
		request.Header.Set("Origin", "http://"+host)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, dial)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("the admin API at %s can't be reached (%w): is the gateway running?%s", c.Address, plainCause(err), c.Hint)
	}
	defer response.Body.Close()
	return c.readAnswer(response, read)
}

// dialAddress returns what to dial for an address of the admin API.
func (c Client) dialAddress() (network, dial string, err error) {
	a, err := caddy.ParseNetworkAddress(c.Address)
	if err != nil || a.PortRangeSize() != 1 || !a.IsUnixNetwork() && a.StartPort == 0 {
		return "", "", Usagef("%s is no address of an admin API: give host:port or unix//path", cmp.Or(c.Named, c.Flag+" "+c.Address))
	}
	if a.IsUnixNetwork() {
		path, _, _ := strings.Cut(a.Host, "|") // the permissions of the socket
		return "unix", path, nil
	}
	return a.Network, net.JoinHostPort(cmp.Or(a.Host, "localhost"), fmt.Sprint(a.StartPort)), nil
}

// plainCause returns what is at the bottom of a failed call.
func plainCause(err error) error {
	var (
		system syscall.Errno
		urlErr *url.Error
	)
	switch {
	case errors.As(err, &system):
		return system
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer in time")
	case errors.As(err, &urlErr):
		return urlErr.Err
	}
	return err
}

// readAnswer reads an answer of the API, or why there is none.
func (c Client) readAnswer(response *http.Response, read func(answer []byte) bool) error {
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the admin API at %s broke off: %w", c.Address, plainCause(err))
	}
	var refusal struct {
		Error string `json:"error"`
	}
	switch {
	case response.StatusCode == http.StatusOK && read(content):
		return nil
	case response.StatusCode != http.StatusOK && json.Unmarshal(content, &refusal) == nil && refusal.Error != "":
		return errors.New(refusal.Error)
	}
	return fmt.Errorf("the admin API at %s answers %d and knows nothing of %s: is it Tenantgate's?", c.Address, response.StatusCode, c.Subject)
}

// Refusal is the error with which a handler of the admin API refuses a request.
func Refusal(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}
