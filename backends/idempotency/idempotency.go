// Package idempotency makes a request that is sent twice count once: the header
// Idempotency-Key of draft-ietf-httpapi-idempotency-key-header, by table
// idempotency_keys. The answer is stored in the transaction of what it tells of,
// so a request that was rolled back leaves no key, and none is ever "in flight":
// a second request waits for the end of the first one's transaction.
package idempotency

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// Header is the request header with the key.
const Header = "Idempotency-Key"

// TTL is how long a key is remembered after its first request.
const TTL = 24 * time.Hour

// maxKey is the most bytes that a key may have.
const maxKey = 255

// Key returns the key of a request, "" if it has none. It is 1 to 255 printable
// ASCII characters, as a string in quotes (RFC 9651 section 3.3.3, as the draft
// asks) or as they are: "k" and k are the same key. Anything else, like a header
// that stands twice, is a 400 problem, which never repeats it.
func Key(r *http.Request) (string, error) {
	lines := r.Header[Header]
	if len(lines) == 0 {
		return "", nil
	}
	key := strings.Trim(lines[0], " \t")
	valid := len(lines) == 1
	if strings.HasPrefix(key, `"`) {
		var quoted bool
		key, quoted = unquote(key)
		valid = valid && quoted
	}
	if !valid || key == "" || len(key) > maxKey || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "", problem.New(http.StatusBadRequest, "bad-header",
			fmt.Sprintf("%s is not valid: give it once, with 1 to %d printable ASCII characters.", Header, maxKey))
	}
	return key, nil
}

// unquote returns what a string of RFC 9651 means. It reports false unless text
// is one, whose characters it does not judge.
func unquote(text string) (string, bool) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			return b.String(), i == len(text)-1
		case '\\':
			i++
			if i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", false
			}
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// Slot is what a key is unique in: a caller of a tenant on a route, such as
// "POST /api/invitations/".
type Slot struct {
	TenantID             int64
	CallerID, Route, Key string
}

// Response is an answer as it was sent. Body is JSON.
type Response struct {
	Status   int
	Location string
	Body     []byte
}

// Claim takes the slot in tx, as the first that tx does: nil if the request is
// new, otherwise the answer that [Store] kept when the same request was done
// before. Somebody who holds the slot is waited for. A key that has expired, or
// was committed without an answer, counts as new. If the key came with another
// request before, it is a 422 problem.
//
// Requests are told apart by the SHA-256 of their JSON. That needs no secret
// key, since what is hashed stands in clear in what the request makes: a request
// with a password or token must not be claimed.
func Claim(ctx context.Context, tx *database.Tx, slot Slot, request any) (*Response, error) {
	encoded, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("claim idempotency key: %w", err)
	}
	fingerprint := sha256.Sum256(encoded)
	result, err := tx.ExecContext(ctx, `INSERT INTO idempotency_keys (tenant_id, caller_id, route, key, fingerprint, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (tenant_id, caller_id, route, key) DO UPDATE
		SET fingerprint = excluded.fingerprint, status = 0, location = '', response = '', expires_at = excluded.expires_at
		WHERE idempotency_keys.expires_at <= $7 OR idempotency_keys.status = 0`,
		slot.TenantID, slot.CallerID, slot.Route, slot.Key, fingerprint[:], tx.Now.Add(TTL).UnixMilli(), tx.NowMS())
	if err != nil {
		return nil, fmt.Errorf("claim idempotency key: %w", err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return nil, err
	}
	var r Response
	var known []byte
	err = tx.QueryRowContext(ctx, `SELECT fingerprint, status, location, response FROM idempotency_keys
		WHERE tenant_id = $1 AND caller_id = $2 AND route = $3 AND key = $4`,
		slot.TenantID, slot.CallerID, slot.Route, slot.Key).Scan(&known, &r.Status, &r.Location, &r.Body)
	if err != nil {
		return nil, fmt.Errorf("read idempotency key: %w", err)
	}
	if !bytes.Equal(known, fingerprint[:]) {
		return nil, problem.New(http.StatusUnprocessableEntity, "idempotency-key-reused",
			"This "+Header+" came with another request before: use a new one for each request.")
	}
	return &r, nil
}

// Store keeps the answer of the request that claimed the slot in tx.
func Store(ctx context.Context, tx *database.Tx, slot Slot, r Response) error {
	result, err := tx.ExecContext(ctx, `UPDATE idempotency_keys SET status = $1, location = $2, response = $3
		WHERE tenant_id = $4 AND caller_id = $5 AND route = $6 AND key = $7`,
		r.Status, r.Location, string(r.Body), slot.TenantID, slot.CallerID, slot.Route, slot.Key)
	if err != nil {
		return fmt.Errorf("store idempotent answer: %w", err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return errors.New("store idempotent answer: claim the key first")
}

// Purge deletes the keys that have expired, and returns how many there were. It
// may run beside live traffic and beside itself.
func Purge(ctx context.Context, db *database.DB) (int, error) {
	return db.InBatches(ctx, func(tx *database.Tx, limit int) (int, error) {
		// A claim may renew a key meanwhile, hence expires_at twice.
		result, err := tx.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE expires_at <= $1
			AND (tenant_id, caller_id, route, key) IN
			(SELECT tenant_id, caller_id, route, key FROM idempotency_keys WHERE expires_at <= $1 LIMIT $2)`, tx.NowMS(), limit)
		if err != nil {
			return 0, fmt.Errorf("delete idempotency keys: %w", err)
		}
		n, err := result.RowsAffected()
		return int(n), err
	})
}

// Write sends the answer again, and says so by the header Idempotency-Replayed.
func (r *Response) Write(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Idempotency-Replayed", "true")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(r.Body)))
	if r.Location != "" {
		header.Set("Location", r.Location)
	}
	w.WriteHeader(r.Status)
	_, _ = w.Write(r.Body) // the client is gone if this fails; there is nobody to tell
}
