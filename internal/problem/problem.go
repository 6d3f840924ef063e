// Package problem is the error that a client may read: RFC 9457 problem
// details. Gateway modules and backends return an [*Error]; one writer on each
// side turns it into application/problem+json.
package problem

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
)

// ContentType is the media type of a problem body (RFC 9457 section 3).
const ContentType = "application/problem+json"

// typePrefix makes a code a stable URI. The codes are listed in docs/problems.md.
const typePrefix = "urn:tenantgate:problem:"

// Error is a refusal or failure with a public and a private half. Everything
// but Err is sent to the client.
type Error struct {
	// Status is the HTTP status code.
	Status int
	// Code is the stable machine-readable name in kebab-case, such as
	// "permission-denied". The problem's type is "urn:tenantgate:problem:" + Code.
	// Empty means "about:blank": the status says it all.
	Code string
	// Detail is one sentence for the person who reads the response.
	Detail string
	// Fields names the parts of the request that were wrong.
	Fields []Field
	// Extra holds further members of the body, such as "permission".
	Extra map[string]any
	// Header holds response headers, such as Retry-After.
	Header http.Header
	// Err is the cause. It is logged and never sent.
	Err error
}

// Field is one invalid part of a request body.
type Field struct {
	// Pointer is an RFC 6901 JSON pointer into the body ("/email"), or
	// "?name" for a query parameter.
	Pointer string `json:"pointer"`
	// Code is the stable name of the rule that was broken ("required").
	Code string `json:"code"`
	// Detail says what to do about it.
	Detail string `json:"detail"`
}

// New returns an Error with the given status, code and public sentence.
func New(status int, code, detail string) *Error {
	return &Error{Status: status, Code: code, Detail: detail}
}

// Wrap returns an Error like [New] that carries its private cause.
func Wrap(err error, status int, code, detail string) *Error {
	return &Error{Status: status, Code: code, Detail: detail, Err: err}
}

// Error returns the code, the public sentence and the cause, for logs.
func (e *Error) Error() string {
	text := e.Detail
	if e.Code != "" {
		text = e.Code + ": " + text
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.Err }

// From returns err as an [*Error]. Any error that is not one becomes a 500
// that says nothing of its cause to the client.
func From(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Wrap(err, http.StatusInternalServerError, "internal", "Something went wrong on our side; quote the trace id when you report it.")
}

// Body returns the JSON object for e. traceID is added as trace_id when it is
// not empty.
func (e *Error) Body(traceID string) []byte {
	body := make(map[string]any, 6+len(e.Extra))
	for name, value := range e.Extra {
		body[name] = value
	}
	body["type"] = "about:blank"
	if e.Code != "" {
		body["type"] = typePrefix + e.Code
		body["code"] = e.Code
	}
	body["title"] = http.StatusText(e.Status)
	body["status"] = e.Status
	if e.Detail != "" {
		body["detail"] = e.Detail
	}
	if len(e.Fields) > 0 {
		body["errors"] = e.Fields
	}
	if traceID != "" {
		body["trace_id"] = traceID
	}
	encoded, err := json.Marshal(body)
	if err != nil { // an Extra value that JSON can't hold is a bug; the refusal still stands
		return []byte(`{"type":"about:blank","title":` + strconv.Quote(http.StatusText(e.Status)) + `,"status":` + strconv.Itoa(e.Status) + `}`)
	}
	return append(encoded, '\n')
}

// Write sends e as the response. It may be called only before anything else
// was written.
func (e *Error) Write(w http.ResponseWriter, traceID string) error {
	header := w.Header()
	for name, values := range e.Header {
		header[name] = values
	}
	body := e.Body(traceID)
	header.Set("Content-Type", ContentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(e.Status)
	_, err := w.Write(body)
	return err
}
