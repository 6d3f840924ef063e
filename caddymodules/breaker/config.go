package breaker

import (
	"fmt"
	"regexp"
	"time"

	"github.com/caddyserver/caddy/v2"

	core "github.com/tenantgate/tenantgate/internal/breaker"
)

// The modes of a breaker.
const (
	modeEnforce = "enforce"
	modeShadow  = "shadow"
)

// The scopes of a circuit.
const (
	scopeUpstream = "upstream"
	scopeTenant   = "upstream+tenant"
)

const (
	defaultResponseTimeout = 10 * time.Second
	defaultTLSTimeout      = 5 * time.Second
	// leaseMargin is added to a probe's timeouts for the time it spends in between.
	leaseMargin = 5 * time.Second
)

// Config is the settings of a breaker.
type Config struct {
	// Failures is how many failures within the window open the circuit. Default: 3.
	Failures int `json:"failures,omitempty"`
	// MinRatio opens the circuit only if also this fraction of the requests in the
	// window failed, 0 to 1. Default: 0, which asks for none.
	MinRatio float64 `json:"min_ratio,omitempty"`
	// MinReporters is how many replicas must have seen a failure within the window,
	// 1 to 1,000. More than 1 needs redis; a replica that cannot reach the others
	// opens by what it alone has seen. Default: 1.
	MinReporters int `json:"min_reporters,omitempty"`
	// Window is the length of the sliding window. Default: 60s.
	Window caddy.Duration `json:"window,omitempty"`
	// Open is how long an open circuit stays open. Default: 120s.
	Open caddy.Duration `json:"open,omitempty"`
	// OpenMax makes the open period double with every failed probe, up to this.
	// Default: it does not grow.
	OpenMax caddy.Duration `json:"open_max,omitempty"`
	// Probes is how many requests at a time may try a half-open circuit. Default: 1.
	Probes int `json:"probes,omitempty"`
	// Need is how many of them must succeed to close it. Default: 1.
	Need int `json:"need,omitempty"`
	// FailureStatus lists the statuses that count as failures, 400 to 599, or 5
	// for all from 500 to 599. Default: 500, 502, 503, 504.
	FailureStatus []int `json:"failure_status,omitempty"`
	// ResponseTimeout is how long to wait for the head of the response once the
	// request is sent; it ends with status 504 and counts as a failure. Default:
	// 10s. Negative: for ever.
	ResponseTimeout caddy.Duration `json:"response_timeout,omitempty"`
	// Jitter spreads the open period by this fraction up and down, at most 0.5.
	// Default: 0.
	Jitter float64 `json:"jitter,omitempty"`
	// Scope is what has a circuit of its own: "upstream", or "upstream+tenant" for
	// every upstream and tenant of the verified token. Default: "upstream".
	Scope string `json:"scope,omitempty"`
	// Mode is "enforce" or "shadow": counts, logs and changes state but refuses
	// nothing. Default: "enforce".
	Mode string `json:"mode,omitempty"`
}

// settings returns what the core is told, defaults filled in, without the lease.
func (c *Config) settings() core.Settings {
	s := core.DefaultSettings()
	set(&s.Failures, c.Failures)
	set(&s.Window, time.Duration(c.Window))
	set(&s.Open, time.Duration(c.Open))
	set(&s.Probes, c.Probes)
	set(&s.Need, c.Need)
	set(&s.MinReporters, c.MinReporters)
	s.OpenMax, s.Jitter, s.Shadow = time.Duration(c.OpenMax), c.Jitter, c.Mode == modeShadow
	s.MinRatio, s.PerTenant = c.MinRatio, c.Scope == scopeTenant
	return s
}

// set overwrites a default with a value that was given.
func set[T comparable](field *T, value T) {
	var zero T
	if value != zero {
		*field = value
	}
}

// responseTimeout returns how long to wait for the head of a response, 0 for ever.
func (c *Config) responseTimeout() time.Duration {
	if c.ResponseTimeout == 0 {
		return defaultResponseTimeout
	}
	return max(0, time.Duration(c.ResponseTimeout))
}

// failing returns the statuses that are failures.
func (c *Config) failing() *[600]bool {
	list := c.FailureStatus
	if len(list) == 0 {
		list = []int{500, 502, 503, 504}
	}
	failing := new([600]bool)
	for _, status := range list {
		if status != 5 {
			failing[status] = true
			continue
		}
		for i := 500; i < 600; i++ {
			failing[i] = true
		}
	}
	return failing
}

// check reports the first value that makes no sense.
func (c *Config) check() error {
	if c.Mode != "" && c.Mode != modeEnforce && c.Mode != modeShadow {
		return fmt.Errorf("mode is %q, must be enforce or shadow", c.Mode)
	}
	if c.Scope != "" && c.Scope != scopeUpstream && c.Scope != scopeTenant {
		return fmt.Errorf("scope is %q, must be %s or %s", c.Scope, scopeUpstream, scopeTenant)
	}
	for _, status := range c.FailureStatus {
		if status != 5 && (status < 400 || status > 599) {
			return fmt.Errorf("failure_status %d is not a status from 400 to 599 nor the class 5", status)
		}
	}
	return c.settings().Validate()
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// checkName reports whether a name is fit for keys, log fields and metric labels.
func checkName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%q is not a breaker name: expecting 1 to 64 letters, digits, dots, dashes and underscores", name)
	}
	return nil
}
