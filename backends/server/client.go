package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tenantgate/tenantgate/internal/sanitize"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// Client calls another backend for the request that is being served: the trace
// goes on, and the other side sees the same caller.
type Client struct {
	base   string
	secret secret.String
	http   *http.Client
}

// NewClient returns a client of the service at base, such as
// "http://127.0.0.1:9002", that gives a call at most timeout.
func NewClient(base string, gatewaySecret secret.String, timeout time.Duration) *Client {
	return &Client{base: strings.TrimSuffix(base, "/"), secret: gatewaySecret, http: &http.Client{Timeout: timeout}}
}

// CallError is an answer that is not a 2xx. Path is without the query.
type CallError struct {
	Path   string
	Status int
}

// Error names the path and the status.
func (e *CallError) Error() string { return fmt.Sprintf("call %s: status %d", e.Path, e.Status) }

// Do sends body (nil for none) as JSON on behalf of the request r and decodes
// the answer into result (nil: it is dropped). An answer that is not a 2xx is a
// [*CallError]. Errors never hold the query of target, because they are logged.
func (c *Client) Do(ctx context.Context, r *http.Request, method, target string, body, result any) error {
	path, _, _ := strings.Cut(target, "?")
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("call %s: %w", path, err)
		}
		reader = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+target, reader)
	if err != nil {
		return fmt.Errorf("call %s: %w", path, withoutURL(err))
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, name := range [...]string{
		sanitize.HeaderUserID, sanitize.HeaderTenantID, sanitize.HeaderRoles,
		sanitize.HeaderPermission, "X-Forwarded-For",
	} {
		if value := r.Header.Get(name); value != "" {
			req.Header.Set(name, value)
		}
	}
	if c.secret != "" {
		req.Header.Set(sanitize.HeaderGatewaySecret, c.secret.Reveal())
	}
	Trace(r.Context()).Child().Inject(req.Header)

	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", path, withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return &CallError{Path: path, Status: resp.StatusCode}
	}
	if result == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(result); err != nil {
		return fmt.Errorf("call %s: %w", path, err)
	}
	return nil
}

// withoutURL returns the cause in a [*url.Error], whose text has the whole URL.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
