// Package logformat is the log encoder of the gateway: every line in the one
// schema that the backends write too.
package logformat

import (
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/tenantgate/tenantgate/internal/logging"
)

func init() {
	caddy.RegisterModule(Encoder{})
}

// The styles of lines.
const (
	styleJSON    = "json"
	styleConsole = "console"
)

// Encoder writes log lines in Tenantgate's schema: one JSON object with ts,
// level, service, logger, msg, and for requests method, host, path, client_ip,
// status, duration_ms, bytes, trace_id, span_id, request_id, user_id and
// tenant_id. Queries, headers and cookies never reach a line.
//
// The style "console" writes the same fields for a person's eyes, in colour if
// stdout is a terminal.
type Encoder struct {
	zapcore.Encoder `json:"-"`

	// Style is "json" (default) or "console". Placeholders are allowed.
	Style string `json:"style,omitempty"`
	// Service is the value of the field "service". Default: "tenantgate".
	Service string `json:"service,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Encoder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.encoders.tenantgate",
		New: func() caddy.Module { return new(Encoder) },
	}
}

// UnmarshalCaddyfile reads the encoder:
//
//	format tenantgate [json|console] {
//		service <name>
//	}
func (e *Encoder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // encoder name
	if d.NextArg() {
		e.Style = d.Val()
		if e.Style != styleJSON && e.Style != styleConsole && !strings.Contains(e.Style, "{") {
			return d.Errf("unknown log style '%s': use json or console", e.Style)
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		switch d.Val() {
		case "service":
			if e.Service != "" {
				return d.Err("service is given twice")
			}
			if !d.AllArgs(&e.Service) {
				return d.ArgErr()
			}
		default:
			return d.Errf("unrecognized option '%s': only service is known", d.Val())
		}
	}
	return nil
}

// Provision implements caddy.Provisioner.
func (e *Encoder) Provision(caddy.Context) error {
	repl := caddy.NewReplacer()
	style := repl.ReplaceAll(e.Style, "")
	service := repl.ReplaceAll(e.Service, "")
	if service == "" {
		service = "tenantgate"
	}
	switch style {
	case "", styleJSON:
		e.Encoder = logging.NewEncoder(service, summarise)
	case styleConsole:
		e.Encoder = logging.NewConsoleEncoder(service, summarise, term.IsTerminal(int(os.Stdout.Fd())))
	default:
		return fmt.Errorf("unknown log style '%s': use json or console", style)
	}
	return nil
}

// Clone implements zapcore.Encoder.
func (e *Encoder) Clone() zapcore.Encoder { return e.Encoder.Clone() }

// EncodeEntry implements zapcore.Encoder.
func (e *Encoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	return e.Encoder.EncodeEntry(entry, fields)
}

// ConfigureDefaultFormat implements caddy.ConfiguresFormatterDefault. A writer that
// discards all lines, such as `output loki ""`, need not have them encoded.
func (e *Encoder) ConfigureDefaultFormat(wo caddy.WriterOpener) error {
	if d, ok := wo.(interface{ Discards() bool }); ok && d.Discards() {
		e.Encoder = silence{zapcore.NewMapObjectEncoder()}
	}
	return nil
}

// silence encodes each line as nothing.
type silence struct{ zapcore.ObjectEncoder }

var empty = buffer.NewPool()

// Clone implements zapcore.Encoder.
func (silence) Clone() zapcore.Encoder { return silence{zapcore.NewMapObjectEncoder()} }

// EncodeEntry implements zapcore.Encoder.
func (silence) EncodeEntry(zapcore.Entry, []zapcore.Field) (*buffer.Buffer, error) {
	return empty.Get(), nil
}

// summarise keeps of a request what may be shown.
func summarise(v any) (logging.Request, bool) {
	loggable, ok := v.(caddyhttp.LoggableHTTPRequest)
	if !ok {
		return logging.Request{}, false
	}
	r := loggable.Request
	clientIP, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return logging.Request{Method: r.Method, Host: r.Host, Path: path(r), ClientIP: clientIP}, true
}

// path returns the path as the client sent it, without the query. An absolute
// target (a proxy request) may hold credentials, so only its path is shown.
func path(r *http.Request) string {
	if !strings.HasPrefix(r.RequestURI, "/") {
		return r.URL.EscapedPath()
	}
	sent, _, _ := strings.Cut(r.RequestURI, "?")
	return sent
}

var (
	_ caddy.Provisioner     = (*Encoder)(nil)
	_ caddyfile.Unmarshaler = (*Encoder)(nil)
	_ zapcore.Encoder       = (*Encoder)(nil)

	_ caddy.ConfiguresFormatterDefault = (*Encoder)(nil)
)
