// Package loki is the log writer loki: every line of the gateway reaches Grafana
// Loki.
package loki

import (
	"context"
	"io"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/prometheus/client_golang/prometheus"
)

func init() {
	caddy.RegisterModule(new(Writer))
	caddy.OnExit(func(context.Context) { closeAll() })
}

// Writer ships log lines to Grafana Loki. A line is taken at once, whatever Loki
// does, so that no request waits for it; within 50 ms it is in a buffer on disk,
// and it stays there until Loki has acknowledged it. docs/log-shipping.md tells
// what happens when something goes wrong.
//
// Lines are shipped as the encoder of the log writes them, after its filters. They
// should be JSON objects, as `format tenantgate`, `json` and `filter` make them:
// labels and metadata come from their fields.
//
// Each folder has one shipper, which outlives reloads: a reload with other settings
// changes it, and lines that wait keep their labels and their tenant. Two logs with
// one folder must have the same settings. Once no configuration names a folder, its
// shipper sends for at most 5 seconds more, and the rest stays on disk for the next
// one. Lines of requests that are still on their way then go to stderr, and so do
// all troubles of the shipper itself, at most once a second. `caddy validate` beside
// a gateway that runs leaves the buffer alone.
//
// All texts but names may hold placeholders, such as {env.LOKI_PASSWORD} and
// {file./run/secrets/loki}. They are replaced when the configuration is loaded.
// An environment variable may be empty in url and tenant only.
type Writer struct {
	// URL is Loki's push API, such as http://loki:3100; without a path it is
	// /loki/api/v1/push. It may hold a user name and a password. Empty: lines are
	// discarded, and nothing else here is looked at.
	URL string `json:"url,omitempty"`
	// Labels are the labels of Loki's streams by name: a text, or {field.NAME} for
	// a field at the top of the line. A line that lacks the field has no such
	// label. They are added to service ({field.service}) and level
	// ({field.level}), or replace them. Of a field, the first 100 values are
	// labels; lines with others have the label "other" and their own value as
	// metadata. So let no identifier be a label.
	Labels map[string]string `json:"labels,omitempty"`
	// Metadata are the fields that become structured metadata, by which Loki finds
	// lines: {env="production"} | trace_id="…". Default: trace_id, user_id and
	// tenant_id. An empty list means none.
	Metadata []string `json:"metadata,omitempty"`
	// Tenant is the X-Scope-OrgID: a text, or {field.NAME} for a field at the top
	// of the line. Default: none is sent.
	Tenant string `json:"tenant,omitempty"`
	// DefaultTenant is the tenant of lines that lack the field.
	DefaultTenant string `json:"default_tenant,omitempty"`
	// Username and Password are for HTTP basic authentication.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	// Bearer is a token, instead of a user name and a password.
	Bearer string `json:"bearer,omitempty"`
	// BatchSize is how much is on its way to Loki at one time, before
	// compression: 16KiB to 16MiB. Default: 1MiB.
	BatchSize string `json:"batch_size,omitempty"`
	// BatchWait is how long a line waits for others to share its request.
	// Default: 1s.
	BatchWait string `json:"batch_wait,omitempty"`
	// Buffer is the folder of the buffer. One process has it at a time. Default:
	// tenantgate/loki in Caddy's data directory.
	Buffer string `json:"buffer,omitempty"`
	// BufferSize bounds the buffer, from 1MiB. When it is full, the oldest lines
	// are dropped and counted. Default: 1GiB.
	BufferSize string `json:"buffer_size,omitempty"`
	// Sync is how often the buffer is forced to the disk, which is what survives
	// a loss of power: an interval, "always" or "never". Whatever it is, what is
	// in the buffer survives the end of the process, by kill -9 too. Default: 1s.
	Sync string `json:"sync,omitempty"`
	// MaxAge is Loki's reject_old_samples_max_age: older lines are dropped,
	// because Loki would refuse them. Default: 168h.
	MaxAge string `json:"max_age,omitempty"`
	// Timeout bounds one request to Loki. Default: 10s.
	Timeout string `json:"timeout,omitempty"`
	// TLSCA is a PEM file of the authorities that vouch for Loki. Default: the
	// system's.
	TLSCA string `json:"tls_ca,omitempty"`

	plan     *plan // nil without a URL
	registry *prometheus.Registry
	outlet   *outlet
}

// CaddyModule returns the Caddy module information.
func (*Writer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.loki",
		New: func() caddy.Module { return new(Writer) },
	}
}

// Provision implements caddy.Provisioner. Log writers are provisioned before
// everything else of a configuration: there are no apps and there is no logger.
func (w *Writer) Provision(ctx caddy.Context) error {
	p, err := w.resolve()
	if err != nil || p == nil {
		return err
	}
	w.plan, w.registry = p, ctx.GetMetricsRegistry()
	if err := registerMetrics(w.registry); err != nil {
		return err
	}
	o := outletOf(p.options.dir)
	if err := o.add(w); err != nil {
		return err
	}
	w.outlet = o
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (w *Writer) Cleanup() error {
	if w.outlet == nil {
		return nil
	}
	return w.outlet.remove(w)
}

// String implements caddy.WriterOpener. It shows no secret.
func (w *Writer) String() string {
	if w.plan == nil {
		return "loki without a URL: discarded"
	}
	return "loki at " + w.plan.settings.URL + ", buffer " + w.plan.options.dir
}

// WriterKey implements caddy.WriterOpener. Caddy keeps what [Writer.OpenWriter]
// returns for a key as long as the process lives.
func (w *Writer) WriterKey() string {
	if w.plan == nil {
		return "loki:"
	}
	return "loki:" + w.plan.options.dir
}

// OpenWriter implements caddy.WriterOpener. It can't fail: the shipper runs since
// [Writer.Provision].
func (w *Writer) OpenWriter() (io.WriteCloser, error) {
	if w.outlet == nil {
		return discard{}, nil
	}
	return w.outlet, nil
}

// Discards reports whether all lines are discarded. The format tenantgate asks, and
// does not encode them.
func (w *Writer) Discards() bool { return w.plan == nil }

// discard takes all lines, and no time.
type discard struct{}

// Write implements io.Writer.
func (discard) Write(p []byte) (int, error) { return len(p), nil }

// Close implements io.Closer.
func (discard) Close() error { return nil }

var (
	_ caddy.Provisioner     = (*Writer)(nil)
	_ caddy.CleanerUpper    = (*Writer)(nil)
	_ caddy.WriterOpener    = (*Writer)(nil)
	_ caddyfile.Unmarshaler = (*Writer)(nil)
)
