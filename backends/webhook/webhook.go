// Package webhook tells one receiver what happened: signed HTTP requests in the
// form of Standard Webhooks (https://www.standardwebhooks.com), sent from an
// outbox in the store, again and again until the receiver takes them.
//
// An event is written in the transaction of what it tells of, so there is one
// exactly if that was committed. It arrives at least once, in no promised order;
// its id is the same each time. [Verify] is the receiver's part.
package webhook

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// timeLayout is how a body says when something happened: RFC 3339 in UTC with
// milliseconds.
const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// Config says where events go.
type Config struct {
	DB *database.DB
	// Log gets a line for each attempt, nil for none.
	Log *zap.Logger
	// Clock is what requests are dated and signed by, the machine's if nil.
	Clock clock.Clock
	// URL is the receiver's, http or https. A user and password in it are sent as
	// basic authentication. No part of it is logged.
	URL string
	// Secrets are whsec_<base64> texts. Requests are signed with all of them, so
	// that a receiver may know any; the first is the newest.
	Secrets []secret.String
	// Client makes the requests, one of its own if nil. Redirects are not
	// followed and an attempt ends after 10 s whatever it says.
	Client *http.Client
}

// Outbox delivers events. A nil *Outbox is good for a program that has no
// receiver: it takes events and forgets them.
type Outbox struct {
	db       *database.DB
	log      *zap.Logger
	clock    clock.Clock
	client   *http.Client
	url      string
	keys     [][]byte
	wake     chan struct{} // holds one wish for a look
	troubled bool          // whether the last look failed; of the goroutine of Run
}

// New returns the outbox that config describes. Its errors name what is wrong
// and repeat nothing of the URL and the secrets. It sends nothing: [Outbox.Run] does.
func New(config Config) (*Outbox, error) {
	if config.DB == nil {
		return nil, errors.New("webhook: a database is needed")
	}
	if err := checkURL(config.URL); err != nil {
		return nil, err
	}
	if len(config.Secrets) == 0 {
		return nil, errNoSecret
	}
	keys, err := decodeAll(config.Secrets)
	if err != nil {
		return nil, err
	}
	o := &Outbox{
		db: config.DB, log: config.Log, clock: config.Clock, client: newClient(config.Client),
		url: config.URL, keys: keys, wake: make(chan struct{}, 1),
	}
	if o.log == nil {
		o.log = zap.NewNop()
	}
	if o.clock == nil {
		o.clock = clock.System{}
	}
	return o, nil
}

// checkURL returns what is wrong with a receiver's URL. The error does not repeat
// it: the user, the path and the query may be secret.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("webhook URL: this is no URL: want https://host/path")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("webhook URL: the scheme is neither https nor http: want https://host/path")
	case u.Hostname() == "":
		return errors.New("webhook URL: there is no host: want https://host/path")
	case u.Fragment != "":
		return errors.New("webhook URL: a fragment (#…) is never sent: leave it out, or write # as %23")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("webhook URL: the port is no number from 1 to 65535")
		}
	}
	return nil
}

// newClient returns a client like given, or a good one if it is nil, that does
// not follow redirects: they would bring the event, its signature and the
// credentials to who knows whom.
func newClient(given *http.Client) *http.Client {
	client := http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    5 * time.Second,
		MaxIdleConnsPerHost:    parallel,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxAnswer,
	}}
	if given != nil {
		client = *given
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

// Event is one thing that happened.
type Event struct {
	// Type is its kind, such as "invitation.created".
	Type     string
	TenantID int64
	// Data is marshalled as "data". It must hold no secret.
	Data any
}

// body is what the receiver gets.
type body struct {
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"`
	ID        string `json:"id"`
	TenantID  int64  `json:"tenant_id"`
	Data      any    `json:"data"`
}

// Enqueue writes an event into the outbox, dated by the transaction, which is
// that of what happened: a rollback takes the event with it. Who committed it
// calls [Outbox.Wake]. A nil *Outbox does nothing.
func (o *Outbox) Enqueue(ctx context.Context, tx *database.Tx, e Event) error {
	if o == nil {
		return nil
	}
	id := identity.NewID()
	payload, err := json.Marshal(body{e.Type, tx.Now.Format(timeLayout), id, e.TenantID, e.Data})
	if err != nil {
		return fmt.Errorf("webhook event %s: %w", e.Type, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO webhook_events (id, type, tenant_id, payload, created_at, due_at)
		VALUES ($1, $2, $3, $4, $5, $5)`, id, e.Type, e.TenantID, string(payload), tx.NowMS())
	if err != nil {
		return fmt.Errorf("store webhook event %s: %w", e.Type, err)
	}
	return nil
}

// Wake has [Outbox.Run] look for events now, for after a commit. It never
// blocks. A nil *Outbox does nothing.
func (o *Outbox) Wake() {
	if o == nil {
		return
	}
	select {
	case o.wake <- struct{}{}:
	default: // it will look anyway
	}
}
