package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/sanitize"
)

// maxBody bounds a request body, in bytes.
const maxBody = 64 << 10

// The bounds of a page in lists.
const (
	defaultLimit = 20
	maxLimit     = 100
)

// Caller is who the gateway says is calling.
type Caller struct {
	UserID   string
	TenantID int64
	Roles    []string
	// Permission is the product/feature/action that the gateway checked, empty if none.
	Permission string
	// IP is the client's address, TraceID the request's trace: both for audit rows.
	IP, TraceID string
}

// CallerOf returns the caller that the gateway named in its headers, or a 401
// problem if it named none: then the route lacks jwt_auth.
func CallerOf(r *http.Request) (Caller, error) {
	tenantID, err := strconv.ParseInt(r.Header.Get(sanitize.HeaderTenantID), 10, 64)
	userID := r.Header.Get(sanitize.HeaderUserID)
	if err != nil || tenantID <= 0 || userID == "" {
		e := problem.New(http.StatusUnauthorized, "token-missing", "Log in first: this call needs a user and a tenant.")
		e.Header = http.Header{"Www-Authenticate": {"Bearer"}}
		return Caller{}, e
	}
	c := Caller{
		UserID: userID, TenantID: tenantID, Permission: r.Header.Get(sanitize.HeaderPermission),
		IP: ClientIP(r), TraceID: Trace(r.Context()).TraceID,
	}
	if roles := r.Header.Get(sanitize.HeaderRoles); roles != "" {
		c.Roles = strings.Split(roles, ",")
	}
	return c, nil
}

// Require is [CallerOf] for a route that needs a permission. It returns a 403
// problem unless the gateway checked exactly this product/feature/action, so
// that a route without check_permission in the Caddyfile opens nothing.
func Require(r *http.Request, permission string) (Caller, error) {
	c, err := CallerOf(r)
	if err != nil {
		return Caller{}, err
	}
	if c.Permission != permission {
		e := problem.New(http.StatusForbidden, "permission-not-checked", "The gateway did not check the permission that this call needs.")
		e.Extra = map[string]any{"permission": permission}
		return Caller{}, e
	}
	return c, nil
}

// Decode reads the request's body, one JSON object without unknown fields and
// of at most 64 KiB, into v. It returns a 400, 413 or 415 problem.
func Decode(r *http.Request, v any) error { return DecodeUpTo(r, v, maxBody) }

// DecodeUpTo is [Decode] for a body of at most limit bytes.
func DecodeUpTo(r *http.Request, v any, limit int64) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return problem.New(http.StatusUnsupportedMediaType, "not-json", "Send the body as application/json.")
	}
	decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, limit))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if err == nil && decoder.Decode(&struct{}{}) != io.EOF {
		err = errors.New("there is more after the JSON object")
	}
	if err == nil {
		return nil
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return problem.New(http.StatusRequestEntityTooLarge, "body-too-large", fmt.Sprintf("The body may have at most %d bytes.", limit))
	}
	detail, field := jsonFault(err)
	e := problem.New(http.StatusBadRequest, "bad-json", detail)
	if field != "" { // in Fields, which are not logged: a client may have put a secret where a name belongs
		e.Fields = []problem.Field{{Code: "invalid", Detail: field}} // the pointer to all of the body: where in it is not known
	}
	return e
}

// jsonFault says what is wrong with a body without repeating its values, which
// may be secret, and if it is a field which one.
func jsonFault(err error) (detail, field string) {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return "The body is empty: send a JSON object.", ""
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "The JSON in the body ends too early.", ""
	case errors.As(err, &syntax):
		return fmt.Sprintf("The body is not valid JSON at byte %d.", syntax.Offset), ""
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return "A field of the body has the wrong type.", fmt.Sprintf("%q must be a %s.", wrongType.Field, wrongType.Type)
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return "The body has an unknown field.", strings.TrimPrefix(err.Error(), "json: unknown field ") + " is not known."
	}
	return "The body must be one JSON object.", ""
}

// WriteJSON sends v with the given status.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode response: %w", err)
	}
	body = append(body, '\n')
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone if this fails; there is nobody to tell
	return nil
}

// Page returns the paging parameters of a list: limit (1 to 100, default 20)
// and after, the opaque cursor of the previous page, empty for the first. It
// returns a 400 problem for a bad limit.
func Page(r *http.Request) (limit int, after string, err error) {
	query := r.URL.Query()
	limit = defaultLimit
	if raw := query.Get("limit"); raw != "" {
		limit, err = strconv.Atoi(raw)
		if err != nil || limit < 1 || limit > maxLimit {
			return 0, "", BadQuery("limit", fmt.Sprintf("Give a number from 1 to %d.", maxLimit))
		}
	}
	return limit, query.Get("after"), nil
}

// BadQuery returns the 400 problem for a query parameter.
func BadQuery(name, detail string) error {
	e := problem.New(http.StatusBadRequest, "bad-query", "A query parameter is not valid.")
	e.Fields = []problem.Field{{Pointer: "?" + name, Code: "invalid", Detail: detail}}
	return e
}

// Invalid returns the 422 problem for fields of a body that can't be accepted.
func Invalid(fields ...problem.Field) error {
	e := problem.New(http.StatusUnprocessableEntity, "invalid-fields", "Some fields are not valid.")
	e.Fields = fields
	return e
}

// LinkNext sets the Link header (RFC 8288) of a list that goes on at cursor.
func LinkNext(w http.ResponseWriter, r *http.Request, cursor string) {
	query := r.URL.Query()
	query.Set("after", cursor)
	w.Header().Set("Link", "<"+r.URL.EscapedPath()+"?"+query.Encode()+`>; rel="next"`)
}
