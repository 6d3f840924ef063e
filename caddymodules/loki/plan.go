package loki

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	core "github.com/tenantgate/tenantgate/internal/loki"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// plan is what a [Writer] comes to, all placeholders replaced. Plans that are
// deeply equal ask for the same.
type plan struct {
	options  options
	settings core.Settings // complete, but for the Client
	ca       string        // PEM; empty: the system's authorities
}

// options are what a running shipper can't change.
type options struct {
	dir      string
	maxBytes int64
	sync     time.Duration
	service  string
}

const (
	// defaultService is the service of lines about the shipping itself, unless the
	// label service is the same for all lines.
	defaultService = "tenantgate"
	// anyURL stands for a URL that is not known yet.
	anyURL = "http://loki"
)

// resolve returns the plan, or nil if lines are to be discarded.
func (w *Writer) resolve() (*plan, error) {
	r := &reader{expand: expand}
	url := r.text("url", w.URL, "")
	if r.err != nil || url == "" {
		return nil, r.err
	}
	p, err := w.read(r, url)
	if err != nil {
		return nil, err
	}
	if p.options.dir, err = filepath.Abs(cmp.Or(p.options.dir, filepath.Join(caddy.AppDataDir(), "tenantgate", "loki"))); err != nil {
		return nil, fmt.Errorf("buffer: %w", err)
	}
	file := r.text("tls_ca", w.TLSCA, "")
	if r.err != nil || file == "" {
		return p, r.err
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls_ca: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls_ca: %s holds no certificate in PEM", file)
	}
	p.ca = string(pem)
	return p, nil
}

// check returns what is wrong whatever the placeholders stand for.
func (w *Writer) check() error {
	r := &reader{expand: standIn}
	_, err := w.read(r, cmp.Or(r.text("url", w.URL, anyURL), anyURL))
	return err
}

// read returns the plan of the options, but for what is on this machine's disk.
func (w *Writer) read(r *reader, url string) (*plan, error) {
	s := core.Settings{
		URL:        url,
		Username:   r.text("basic_auth", w.Username, "x"),
		Password:   secret.String(r.text("basic_auth", w.Password, "x")),
		Bearer:     secret.String(r.text("bearer", w.Bearer, "x")),
		Tenant:     r.tenant(w.Tenant, w.DefaultTenant),
		Labels:     r.labels(w.Labels),
		Metadata:   w.Metadata,
		BatchBytes: int(r.size("batch", w.BatchSize)),
		BatchWait:  r.duration("batch", w.BatchWait),
		MaxAge:     r.duration("max_age", w.MaxAge),
		Timeout:    r.duration("timeout", w.Timeout),
	}
	if s.Metadata == nil {
		s.Metadata = slices.DeleteFunc(core.DefaultMetadata(), func(name string) bool { _, isLabel := w.Labels[name]; return isLabel })
	}
	o := options{
		dir:      r.text("buffer", w.Buffer, ""),
		maxBytes: cmp.Or(r.size("buffer", w.BufferSize), core.DefaultBufferBytes),
		sync:     r.sync(w.Sync),
		service:  defaultService,
	}
	for _, l := range s.Labels {
		if l.Name == "service" && l.Value.Field == "" {
			o.service = l.Value.Static
		}
	}
	if o.maxBytes < core.MinBufferBytes {
		r.fail("buffer: %d bytes are too few: give at least 1MiB", o.maxBytes)
	}
	if r.err != nil {
		return nil, r.err
	}
	complete, err := s.Complete()
	return &plan{options: o, settings: complete}, err
}

// client returns what sends the requests of the plan, nil for the shipper's own.
func (p *plan) client() *http.Client {
	if p.ca == "" {
		return nil
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM([]byte(p.ca))
	return core.NewClient(authorities)
}

// reader reads the values of options and keeps the first mistake.
type reader struct {
	// expand returns the text without placeholders, or standIn where it does not
	// know them yet.
	expand func(option, text, standIn string) (string, error)
	err    error
}

// expand replaces placeholders. An empty one is a mistake: it would be a label
// without a value, or a password that is not sent. With LOKI_URL and LOKI_TENANT
// the environment may say that there is none.
func expand(option, text, _ string) (string, error) {
	return caddy.NewReplacer().ReplaceFunc(text, func(name string, value any) (any, error) {
		mayBeEmpty := strings.HasPrefix(name, "env.") && (option == "url" || option == "tenant")
		if !mayBeEmpty && caddy.ToString(value) == "" {
			return nil, fmt.Errorf("%s: the placeholder {%s} is unknown, or can't be read, or is empty", option, name)
		}
		return value, nil
	})
}

// standIn is expand for a Caddyfile that may be meant for another machine.
func standIn(_, text, standIn string) (string, error) {
	if strings.Contains(text, "{") {
		return standIn, nil
	}
	return text, nil
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// text returns the text of an option. standIn passes all later checks.
func (r *reader) text(option, text, standIn string) string {
	expanded, err := r.expand(option, text, standIn)
	if err != nil {
		r.fail("%w", err)
	}
	return expanded
}

// value returns a text or, for {field.NAME}, a field.
func (r *reader) value(option, text string) core.Value {
	if !strings.Contains(text, "{field.") {
		return core.Value{Static: r.text(option, text, "x")}
	}
	name, ok := strings.CutPrefix(text, "{field.")
	name, rest, closed := strings.Cut(name, "}")
	if !ok || !closed || rest != "" || name == "" || strings.Contains(name, "{") {
		r.fail("%s: '%s': {field.NAME} must stand alone", option, text)
	}
	return core.Value{Field: name}
}

func (r *reader) tenant(text, otherwise string) core.Value {
	v := r.value("tenant", text)
	if otherwise == "" {
		return v
	}
	if v.Field == "" {
		r.fail("tenant: '%s' needs a {field.NAME} before it", otherwise)
	}
	v.Static = r.text("tenant", otherwise, "x")
	return v
}

// labels returns the given labels and those of the default ones that are not
// given, in the order of their names.
func (r *reader) labels(given map[string]string) []core.Label {
	labels := slices.DeleteFunc(core.DefaultLabels(), func(l core.Label) bool { _, ok := given[l.Name]; return ok })
	for _, name := range slices.Sorted(maps.Keys(given)) {
		labels = append(labels, core.Label{Name: name, Value: r.value("label "+name, given[name])})
	}
	slices.SortFunc(labels, func(a, b core.Label) int { return strings.Compare(a.Name, b.Name) })
	return labels
}

// size returns a number of bytes, 0 for no text.
func (r *reader) size(option, text string) int64 {
	text = r.text(option, text, "")
	if text == "" {
		return 0
	}
	n, ok := parseSize(text)
	if !ok {
		r.fail("%s: '%s' is no size: give one such as 512KiB, 1MiB or 1GiB", option, text)
	}
	return n
}

// duration returns a duration above 0, or 0 for no text.
func (r *reader) duration(option, text string) time.Duration {
	text = r.text(option, text, "")
	if text == "" {
		return 0
	}
	d, err := caddy.ParseDuration(text)
	if err != nil || d <= 0 {
		r.fail("%s: '%s' is no duration above 0, such as 500ms, 10s or 7d", option, text)
	}
	return d
}

func (r *reader) sync(text string) time.Duration {
	switch text = r.text("sync", text, ""); text {
	case "always":
		return core.SyncAlways
	case "never":
		return core.SyncNever
	}
	d, err := caddy.ParseDuration(cmp.Or(text, core.DefaultSync.String()))
	if err != nil || d <= 0 {
		r.fail("sync: '%s': give an interval such as 1s, always or never", text)
	}
	return d
}

// units are what a size may end with, in lower case.
var units = map[string]int64{
	"": 1, "b": 1,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}

// parseSize reads a size above 0 such as 1MiB or 1048576.
func parseSize(text string) (int64, bool) {
	number := strings.TrimRightFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	unit, known := units[strings.ToLower(strings.TrimSpace(text[len(number):]))]
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || !known || n <= 0 || n > math.MaxInt64/unit {
		return 0, false
	}
	return n * unit, true
}
