package tenant

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// event is a change that was made: what the audit log and the gateways hear of it.
type event struct {
	// tenantID is the tenant that changed, 0 for the catalogue of products and features.
	tenantID int64
	// userID is the one member that changed, empty if the tenant itself or its roles did.
	userID string
	// whole says that the tenant is new or gone.
	whole bool
	// action and target are those of the audit row: "member.added", "user/0192…".
	action, target string
	detail         any
}

// announce tells the gateways of the event.
func (e *event) announce(ctx context.Context, tx *database.Tx) error {
	switch {
	case e.tenantID == 0:
		return permission.TouchCatalogue(ctx, tx)
	case e.userID != "":
		return permission.TouchMember(ctx, tx, e.tenantID, e.userID)
	case e.whole:
		return permission.Touch(ctx, tx, e.tenantID)
	}
	return permission.TouchRoles(ctx, tx, e.tenantID)
}

// edit is the transaction of a request that changes something.
type edit struct {
	*database.Tx
	request *http.Request
}

// unchanged returns a 412 problem if the request's If-Match says that current,
// the body of a GET at this moment, is not what its sender has seen.
func (tx *edit) unchanged(current any) error { return server.CheckPreconditions(tx.request, current) }

// change runs f in a transaction that nobody else changes the permission table
// beside. The event that f returns is recorded and announced to the gateways in
// the same transaction; with none, f changed nothing. A name that is taken
// becomes a 409 problem.
func (s *Service) change(r *http.Request, c server.Caller, f func(tx *edit) (*event, error)) error {
	ctx := r.Context()
	err := s.config.DB.InTx(ctx, func(tx *database.Tx) error {
		if err := permission.Lock(ctx, tx); err != nil {
			return err
		}
		e, err := f(&edit{tx, r})
		if err != nil || e == nil {
			return err
		}
		if err := e.announce(ctx, tx); err != nil {
			return err
		}
		return identity.RecordAudit(ctx, tx, identity.AuditEvent{
			TenantID: e.tenantID, ActorID: c.UserID, Action: e.action, Target: e.target, Detail: e.detail,
			RequestIP: c.IP, TraceID: c.TraceID,
		})
	})
	if errors.Is(err, database.ErrConflict) {
		return problem.Wrap(err, http.StatusConflict, "already-exists", "There is one like it already.")
	}
	return err
}

// look runs f, which reads more than once, on one state of the database.
func (s *Service) look(ctx context.Context, f func(q identity.Queryer) error) error {
	tx, err := s.config.DB.BeginRead(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return f(tx)
}

// notFound is the one answer for what does not exist and for what belongs to
// another tenant.
func notFound() error {
	return problem.New(http.StatusNotFound, "not-found", "There is nothing with this id.")
}

// found turns the absence of a row into [notFound].
func found(err error) error {
	if errors.Is(err, sql.ErrNoRows) || errors.Is(err, identity.ErrNotFound) {
		return notFound()
	}
	return err
}

// affected returns [notFound] if a statement changed no row.
func affected(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		return notFound()
	}
	return err
}

// pathID returns the id in the request's path. What is not an id in its one
// spelling is the id of nothing.
func pathID(r *http.Request, name string) (int64, error) {
	id, ok := parseID(r.PathValue(name))
	if !ok {
		return 0, notFound()
	}
	return id, nil
}

// pathUserID returns the id of a user in the request's path.
func pathUserID(r *http.Request) (string, error) {
	id := r.PathValue("user_id")
	if !storable(id) {
		return "", notFound()
	}
	return id, nil
}

// storable reports whether a database takes s as text: PostgreSQL takes no NUL
// and nothing that is not UTF-8, so nothing is stored under such a name.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func parseID(text string) (int64, bool) {
	id, err := strconv.ParseInt(text, 10, 64)
	return id, err == nil && id > 0 && strconv.FormatInt(id, 10) == text
}

// page is where a list starts and how long it is.
type page struct {
	limit int
	// after is the key of the last row that was shown, "" for the start.
	after string
}

// parsePage reads the paging parameters of a list.
func parsePage(r *http.Request) (page, error) {
	limit, cursor, err := server.Page(r)
	if err != nil {
		return page{}, err
	}
	after, ok := decodeCursor(cursor)
	if !ok || !storable(after) {
		return page{}, errCursor()
	}
	return page{limit: limit, after: after}, nil
}

// parseIDPage is [parsePage] for lists in the order of a numeric id.
func parseIDPage(r *http.Request) (limit int, after int64, err error) {
	p, err := parsePage(r)
	if err != nil || p.after == "" {
		return p.limit, 0, err
	}
	after, ok := parseID(p.after)
	if !ok {
		return 0, 0, errCursor()
	}
	return p.limit, after, nil
}

func errCursor() error {
	return server.BadQuery("after", "Give the next_cursor of the previous page.")
}

// A cursor is the key of a row in base64url: opaque, so that nobody computes one.

func encodeCursor(key string) string { return base64.RawURLEncoding.EncodeToString([]byte(key)) }

func decodeCursor(cursor string) (key string, ok bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) > maxUserID || base64.RawURLEncoding.EncodeToString(raw) != cursor {
		return "", false
	}
	return string(raw), true
}

// list is the body of a list.
type list[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

// writeList sends a page of at most limit items; rows may hold one more, which
// says that the list goes on.
func writeList[T any](w http.ResponseWriter, r *http.Request, rows []T, limit int, key func(T) string) error {
	body := list[T]{Items: rows}
	if len(rows) > limit {
		body.Items = rows[:limit]
		next := encodeCursor(key(rows[limit-1]))
		body.NextCursor = &next
		server.LinkNext(w, r, next)
	}
	return server.WriteJSON(w, http.StatusOK, body)
}

// query returns all rows of a query, never nil.
func query[T any](ctx context.Context, q identity.Queryer, scan func(*sql.Rows) (T, error), statement string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	defer func() { _ = rows.Close() }()
	all := []T{}
	for rows.Next() {
		row, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("query: %w", err)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return all, nil
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// timestamp is a time in unix milliseconds that JSON shows as RFC 3339.
type timestamp int64

// MarshalText implements encoding.TextMarshaler.
func (t timestamp) MarshalText() ([]byte, error) {
	return []byte(time.UnixMilli(int64(t)).UTC().Format("2006-01-02T15:04:05.000Z07:00")), nil
}

// target names what an audit row is about.
func target[T int64 | string](kind string, id T) string {
	return strings.Join([]string{kind, fmt.Sprint(id)}, "/")
}
