package permission

import (
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

const (
	// callTimeout bounds a call of the admin API.
	callTimeout = 30 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 20
)

// askGateway asks the admin API at an address and decodes its answer. Unlike
// caddycmd.AdminAPIRequest it ends with ctx and its time, and leaves no
// connection behind.
func askGateway(ctx context.Context, address, path string, query url.Values, answer any) error {
	network, dial, err := dialAddress(address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	host := dial
	if network == "unix" {
		host = "127.0.0.1" // there is none, but a URL must have one
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+adminPath+path+"?"+query.Encode(), nil)
	if err != nil {
		return usagef("--gateway %s is no address: give host:port or unix//path", address)
	}
	if network != "unix" { // the API asks for it there, and allows none here
		request.Header.Set("Origin", "http://"+host)
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
		return fmt.Errorf("the admin API at %s can't be reached (%w): is the gateway running?", address, plainCause(err))
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the admin API at %s broke off: %w", address, plainCause(err))
	}
	var refusal struct {
		Error string `json:"error"`
	}
	switch {
	case response.StatusCode == http.StatusOK && json.Unmarshal(content, answer) == nil:
		return nil
	case response.StatusCode != http.StatusOK && json.Unmarshal(content, &refusal) == nil && refusal.Error != "":
		return errors.New(refusal.Error)
	}
	return fmt.Errorf("the admin API at %s answers %d and knows nothing of permissions: is it Tenantgate's?", address, response.StatusCode)
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

// dialAddress returns what to dial for an address of the admin API.
func dialAddress(address string) (network, dial string, err error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil || a.PortRangeSize() != 1 || !a.IsUnixNetwork() && a.StartPort == 0 {
		return "", "", usagef("--gateway %s is no address of an admin API: give host:port or unix//path", address)
	}
	if a.IsUnixNetwork() {
		path, _, _ := strings.Cut(a.Host, "|") // the permissions of the socket
		return "unix", path, nil
	}
	return a.Network, net.JoinHostPort(cmp.Or(a.Host, "localhost"), fmt.Sprint(a.StartPort)), nil
}
