package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// attemptTimeout bounds one attempt, from the dial to the answer's body.
	attemptTimeout = 10 * time.Second
	// maxAnswer bounds the headers of an answer and, apart from them, what is read
	// of its body, in bytes. The body is only read to keep the connection.
	maxAnswer = 16 << 10
	// maxRetryAfter bounds what an answer can ask to wait.
	maxRetryAfter = 24 * time.Hour
)

// reply is what came of an attempt.
type reply struct {
	status int // 0 if there was no answer
	// reason says why the event is not delivered. It is one of our own texts and
	// quotes nothing of the answer, which may repeat what was sent.
	reason string
	// wait is how long the answer asks to wait, 0 if it does not.
	wait time.Duration
}

// delivered reports whether the receiver took the event.
func (r reply) delivered() bool { return r.status >= 200 && r.status <= 299 }

// send makes one attempt. A user and password in the URL net/http sends itself,
// as basic authentication.
func (o *Outbox) send(ctx context.Context, e claimed) reply {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, strings.NewReader(e.payload))
	if err != nil {
		return reply{reason: "the request can't be made"}
	}
	now := o.clock.Now()
	timestamp := strconv.FormatInt(now.Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "tenantgate")
	request.Header.Set(HeaderID, e.id)
	request.Header.Set(HeaderTimestamp, timestamp)
	request.Header.Set(HeaderSignature, signAll(o.keys, e.id, timestamp, []byte(e.payload)))
	// The receiver knows repeats by the id. This lets net/http send it again if a
	// kept connection turns out to be closed; the header itself is not sent.
	request.Header["Idempotency-Key"] = []string{}
	response, err := o.client.Do(request)
	if err != nil {
		return reply{reason: reasonOf(err)}
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer) // the status says all, whatever follows
	return answered(response.StatusCode, response.Header, now)
}

// answered returns what an answer means.
func answered(status int, header http.Header, now time.Time) reply {
	r := reply{status: status}
	if r.delivered() {
		return r
	}
	r.reason = "answered " + strconv.Itoa(status)
	switch {
	case status >= 300 && status <= 399:
		r.reason += ": redirects are not followed"
	case status == http.StatusGone:
		r.reason += ": the receiver wants no events"
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		r.wait = retryAfter(header.Get("Retry-After"), now)
	}
	return r
}

// retryAfter reads a Retry-After of seconds or of a date (RFC 9110, section
// 10.2.3). It returns 0 for none, and for one that is over or no such text.
func retryAfter(text string, now time.Time) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil {
		wait = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		wait = maxRetryAfter
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// reasonOf says in our own words why there was no answer. Errors of net/http
// quote the URL, and an answer that is no HTTP.
func reasonOf(err error) string {
	var (
		network   net.Error
		operation *net.OpError
		lookup    *net.DNSError
		errno     syscall.Errno
		record    tls.RecordHeaderError
		untrusted *tls.CertificateVerificationError
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &network) && network.Timeout():
		return "no answer in time"
	case errors.As(err, &operation) && operation.Op == "proxyconnect":
		return "the proxy makes no connection"
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return "the host's name is unknown"
	case errors.As(err, &lookup):
		return "the host's name can't be looked up"
	case errors.As(err, &authority):
		return "TLS: the certificate's authority is unknown"
	case errors.As(err, &host):
		return "TLS: the certificate is for another host"
	case errors.As(err, &untrusted):
		return "TLS: the certificate is not valid"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "TLS: the receiver does not speak it"
	case errors.As(err, &operation) && operation.Op == "remote error":
		return "TLS: the receiver refused the connection"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed without an answer"
	}
	return "no valid answer"
}
