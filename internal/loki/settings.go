package loki

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// The defaults of [Settings] and [Options].
const (
	DefaultBatchBytes  = 1 << 20
	DefaultBatchWait   = time.Second
	DefaultMaxAge      = 7 * 24 * time.Hour
	DefaultTimeout     = 10 * time.Second
	DefaultBufferBytes = 1 << 30
	DefaultSync        = time.Second
	// MinBufferBytes is the least [Options.MaxBytes].
	MinBufferBytes = 1 << 20
	// MinBatchBytes and MaxBatchBytes bound [Settings.BatchBytes].
	MinBatchBytes, MaxBatchBytes = 16 << 10, 16 << 20

	pushPath = "/loki/api/v1/push"
)

// Value is a text that is the same for all lines, or a field of each line.
type Value struct {
	// Field is the name of a field at the top of the line's JSON object; empty:
	// all lines have the same text.
	Field string
	// Static is the text without a Field, and what stands for one that a line lacks.
	Static string
}

// Label is one label of a stream. A line that lacks the field has no such label.
type Label struct {
	Name  string
	Value Value
}

// Settings say where lines go and what they carry. They can change while a
// [Shipper] runs: [Shipper.Update].
type Settings struct {
	// URL is Loki's push API. Without a path it is /loki/api/v1/push.
	URL string
	// Username and Password are for HTTP basic authentication, Bearer is a token
	// instead of them.
	Username         string
	Password, Bearer secret.String
	// Tenant is the X-Scope-OrgID. Empty: none is sent.
	Tenant Value
	// Labels are the labels of streams. Nil means [DefaultLabels].
	Labels []Label
	// Metadata are the fields that become structured metadata. Nil means
	// [DefaultMetadata].
	Metadata []string
	// BatchBytes bounds a request, in bytes before compression, and thereby what can
	// be sent twice after a crash.
	BatchBytes int
	// BatchWait is how long a line waits for others to share its request.
	BatchWait time.Duration
	// MaxAge is the age at which Loki would refuse a line
	// (reject_old_samples_max_age): it is dropped then.
	MaxAge time.Duration
	// Timeout bounds one request.
	Timeout time.Duration
	// Client sends the requests; nil means one of the package's own. Its Timeout
	// is not used.
	Client *http.Client
}

// DefaultLabels returns the labels of streams if none are set.
func DefaultLabels() []Label {
	return []Label{{"service", Value{Field: "service"}}, {"level", Value{Field: "level"}}}
}

// DefaultMetadata returns the fields that are structured metadata if none are set.
func DefaultMetadata() []string { return []string{"trace_id", "user_id", "tenant_id"} }

// Complete returns the settings with defaults in place of zero values, or what is
// wrong with them.
func (s Settings) Complete() (Settings, error) {
	s.BatchBytes = cmp.Or(s.BatchBytes, DefaultBatchBytes)
	s.BatchWait = cmp.Or(s.BatchWait, DefaultBatchWait)
	s.MaxAge = cmp.Or(s.MaxAge, DefaultMaxAge)
	s.Timeout = cmp.Or(s.Timeout, DefaultTimeout)
	if s.Labels == nil {
		s.Labels = DefaultLabels()
	}
	if s.Metadata == nil {
		s.Metadata = DefaultMetadata()
	}
	if err := s.completeURL(); err != nil {
		return s, err
	}
	if s.BatchBytes < MinBatchBytes || s.BatchBytes > MaxBatchBytes {
		return s, fmt.Errorf("batch of %d bytes: give %d to %d", s.BatchBytes, MinBatchBytes, MaxBatchBytes)
	}
	for name, d := range map[string]time.Duration{"batch wait": s.BatchWait, "max_age": s.MaxAge, "timeout": s.Timeout} {
		if d < 0 {
			return s, fmt.Errorf("%s of %s: it must be positive", name, d)
		}
	}
	if err := checkTenant(s.Tenant.Static); s.Tenant.Static != "" && err != nil {
		return s, err
	}
	return s, s.checkNames()
}

// completeURL checks the URL, completes its path and takes a user name and a
// password out of it.
func (s *Settings) completeURL() error {
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || u.Opaque != "":
		return fmt.Errorf("push URL can't be read: give one like http://loki:3100") // err would show a password
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return fmt.Errorf("push URL %s: give one like http://loki:3100", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("push URL %s: it can't have a query or a fragment", u.Redacted())
	}
	if u.User != nil {
		if s.Username != "" || s.Password != "" || s.Bearer != "" {
			return fmt.Errorf("push URL %s: credentials are given twice", u.Redacted())
		}
		password, _ := u.User.Password()
		s.Username, s.Password = u.User.Username(), secret.String(password)
		u.User = nil
	}
	if s.Bearer != "" && (s.Username != "" || s.Password != "") {
		return fmt.Errorf("give basic_auth or bearer, not both")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = pushPath
	}
	s.URL = u.String()
	return nil
}

func (s *Settings) checkNames() error {
	if len(s.Labels) == 0 || len(s.Labels) > maxLabels {
		return fmt.Errorf("%d labels: Loki takes 1 to %d", len(s.Labels), maxLabels)
	}
	var names []string
	for _, l := range s.Labels {
		switch {
		case !isName(l.Name) || strings.HasPrefix(l.Name, "__"):
			return fmt.Errorf("label %q: a name has letters, digits and underscores, starts with no digit and not with __", l.Name)
		case slices.Contains(names, l.Name):
			return fmt.Errorf("label %s is given twice", l.Name)
		case l.Value.Field == "" && l.Value.Static == "":
			return fmt.Errorf("label %s has no value", l.Name)
		case len(l.Value.Static) > maxLabelValue:
			return fmt.Errorf("label %s: a value has at most %d bytes", l.Name, maxLabelValue)
		}
		names = append(names, l.Name)
	}
	for i, m := range s.Metadata {
		switch {
		case !isName(m):
			return fmt.Errorf("metadata %q: a name has letters, digits and underscores, and starts with no digit", m)
		case m == "_" || strings.Contains(m, "__"):
			// Loki would make one underscore of two, and answers 500 if nothing else is left.
			return fmt.Errorf("metadata %q: give a name without two underscores in a row", m)
		case slices.Contains(s.Metadata[:i], m):
			return fmt.Errorf("metadata %s is given twice", m)
		case slices.Contains(names, m):
			return fmt.Errorf("%s is a label already: it can't be metadata too", m)
		}
	}
	if len(s.Metadata) > maxMetadata {
		return fmt.Errorf("%d fields as metadata: at most %d", len(s.Metadata), maxMetadata)
	}
	return nil
}

const (
	// Loki's limits: max_label_names_per_series, max_label_value_length.
	maxLabels     = 15
	maxLabelValue = 2048
	// maxMetadata is far below Loki's 128: each doubles what a line costs.
	maxMetadata = 16
	maxTenant   = 150
)

func isName(s string) bool {
	return s != "" && (s[0] < '0' || s[0] > '9') && strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

// checkTenant returns why a text can't be a tenant of Loki, after its
// docs/sources/operations/multi-tenancy.md.
func checkTenant(id string) error {
	if id == "" || len(id) > maxTenant || id == "." || id == ".." || strings.IndexFunc(id, func(r rune) bool {
		return !strings.ContainsRune("!-_.*'()", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) >= 0 {
		return fmt.Errorf("tenant %q: Loki takes 1 to %d letters, digits and !-_.*'()", id, maxTenant)
	}
	return nil
}

// Options are what can't change while a [Shipper] runs.
type Options struct {
	// Dir is the folder of the disk buffer. It is made if it is not there, and one
	// process has it at a time.
	Dir string
	// MaxBytes bounds the buffer; beyond it the oldest lines are dropped.
	MaxBytes int64
	// Sync is how often written lines are forced to the disk. [SyncAlways] forces
	// each write, [SyncNever] leaves it to the system.
	Sync time.Duration
	// Service names this process in the lines that tell of the shipping itself.
	Service string
	// Diagnostics is where the shipper tells of trouble, at most once a second;
	// nil means stderr. Lines that can't be kept go there too.
	Diagnostics io.Writer
	// OnRequest is told of each request to Loki: its status, 0 for none, and how
	// long it took. It must not block.
	OnRequest func(status int, took time.Duration)
	// Clock is the time; nil means the system's.
	Clock clock.Clock
}

// The values of [Options.Sync] that are no interval.
const (
	SyncAlways time.Duration = -1
	SyncNever  time.Duration = -2
)
