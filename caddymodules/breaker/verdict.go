package breaker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	core "github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// codeOpen is the problem code of a refusal.
const codeOpen = "circuit-open"

// errOpen is the cause of a refusal, for logs.
var errOpen = errors.New("circuit is open")

// refusal returns the error of a request that may not be sent for that long. What reverse_proxy
// makes of it: the DialError inside lets it try another upstream with any method,
// for nothing was sent; the HandlerError keeps its status 503 where a plain
// error would become 502; and handle_errors finds the problem.
func refusal(wait time.Duration) error {
	seconds := int64(max(1, (wait+time.Second-1)/time.Second))
	text := strconv.FormatInt(seconds, 10)
	return caddyhttp.HandlerError{
		StatusCode: http.StatusServiceUnavailable,
		Err: &problem.Error{
			Status: http.StatusServiceUnavailable,
			Code:   codeOpen,
			Detail: "The service behind this address is not available and gets no requests for now; try again in " + text + " s.",
			Extra:  map[string]any{"retry_after": seconds},
			Header: http.Header{"Retry-After": {text}},
			Err:    reverseproxy.NewDialError(errOpen),
		},
	}
}

// verdict is what an attempt says about the upstream.
type verdict struct {
	outcome core.Outcome
	reason  string // of a failure, or why it is ignored
}

// judge decides whether an attempt failed for a reason that lies with the upstream.
func (t *Transport) judge(ctx context.Context, body *watchedBody, res *http.Response, err error) verdict {
	var reason string
	switch {
	case err != nil:
		reason = errorReason(err)
	case res.StatusCode < len(t.failing) && t.failing[res.StatusCode]:
		reason = "status"
	case res.ProtoMajor == 2 && failedGRPC(res.Header):
		reason = "grpc status"
	default:
		return verdict{outcome: core.Success}
	}
	// The client went away or its body could not be read: whatever came of it
	// is not the upstream's fault.
	switch {
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
		return verdict{outcome: core.Ignored, reason: "client gone"}
	case body.failedAtClient():
		return verdict{outcome: core.Ignored, reason: "body"}
	}
	return verdict{outcome: core.Failure, reason: reason}
}

// errorReason classifies a transport error for the log.
func errorReason(err error) string {
	var (
		dial        reverseproxy.DialError
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		network     net.Error
	)
	switch {
	case errors.As(err, &dial):
		return "dial"
	case errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.As(err, &certificate), errors.As(err, &record), errors.As(err, &alert):
		return "tls"
	}
	return "connection"
}

// failedGRPC reports whether a gRPC call failed before its first message: the
// server then sends the status in the head (a "trailers-only" response). Failures
// are DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL and UNAVAILABLE.
func failedGRPC(h http.Header) bool {
	switch status := h["Grpc-Status"]; {
	case len(status) != 1:
		return false
	default:
		return status[0] == "4" || status[0] == "8" || status[0] == "13" || status[0] == "14"
	}
}
