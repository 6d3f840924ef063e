// Package demo is an upstream that fails when it is told to, to watch a
// breaker at work. `tenantgate dev` runs it behind /api/billing/ and /api/auth/.
package demo

import (
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/sanitize"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// Service is the name in its answers and log lines.
const Service = "billing-service"

// maxDelay bounds ?delay=.
const maxDelay = time.Minute

// Config is what the upstream needs.
type Config struct {
	Log           *zap.Logger // gets the service's name added
	Clock         clock.Clock
	GatewaySecret secret.String
}

// New returns the upstream. It answers every method on /api/billing/… and on
// /api/auth/ with 200 and what the gateway told it, unless the query asks for
// a failure:
//
//	?status=500   that status, 200 to 599
//	?delay=5s     the answer comes later, at most a minute
//	?reset        the connection is closed without an answer
func New(config Config) http.Handler {
	router := server.NewRouter(server.Config{
		Log: config.Log.With(zap.String("service", Service)), Clock: config.Clock, GatewaySecret: config.GatewaySecret,
	})
	router.Handle("/api/billing/", answer)
	router.Handle("/api/auth/{$}", answer)
	return router
}

// view is what the gateway told the upstream.
type view struct {
	Service    string `json:"service"`
	Method     string `json:"method"`
	Path       string `json:"path"`
	TraceID    string `json:"trace_id"`
	RequestID  string `json:"request_id"`
	UserID     string `json:"user_id"`
	TenantID   string `json:"tenant_id"`
	Permission string `json:"permission"`
}

func answer(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if raw := query.Get("delay"); raw != "" {
		delay, err := time.ParseDuration(raw)
		if err != nil || delay < 0 || delay > maxDelay {
			return server.BadQuery("delay", "Give a duration up to 1m, such as 5s.")
		}
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done(): // the gateway waited long enough
			return problem.New(http.StatusServiceUnavailable, "demo-cancelled", "The caller hung up.")
		}
	}
	if query.Has("reset") {
		server.Logger(r.Context()).Warn("closing the connection as asked", zap.String("path", r.URL.Path))
		panic(http.ErrAbortHandler)
	}
	status := http.StatusOK
	if raw := query.Get("status"); raw != "" {
		var err error
		if status, err = strconv.Atoi(raw); err != nil || status < 200 || status > 599 {
			return server.BadQuery("status", "Give a status from 200 to 599.")
		}
	}
	switch {
	case status >= http.StatusBadRequest:
		return problem.New(status, "demo-failure", "Failing as asked.")
	case status == http.StatusNoContent, status == http.StatusNotModified:
		w.WriteHeader(status)
		return nil
	}
	return server.WriteJSON(w, status, view{
		Service: Service, Method: r.Method, Path: r.URL.Path, TraceID: server.Trace(r.Context()).TraceID,
		RequestID: r.Header.Get(sanitize.HeaderRequestID), UserID: r.Header.Get(sanitize.HeaderUserID),
		TenantID: r.Header.Get(sanitize.HeaderTenantID), Permission: r.Header.Get(sanitize.HeaderPermission),
	})
}
