package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/internal/loki"
	"github.com/tenantgate/tenantgate/internal/loki/lokimetrics"
)

// flushTimeout is how long lines may take to reach Loki when the process ends.
// What is left then stays in the buffer for the next start.
const flushTimeout = 5 * time.Second

// bufferFolder is the services' buffer in LOKI_BUFFER, so that a gateway on the
// same machine may have the same setting.
const bufferFolder = "backends"

// Ship returns what writes lines to out and, with LOKI_URL, ships them to Loki
// too, which an [App] made of c afterwards shows in its metrics. A line never
// waits for Loki. When the last line is written, end must be called.
func (c *Config) Ship(out zapcore.WriteSyncer) (both zapcore.WriteSyncer, end func(), err error) {
	if c.LokiURL == "" {
		return out, func() {}, nil
	}
	if err := c.validateShipping(); err != nil {
		return nil, nil, err
	}
	var shipper *loki.Shipper
	dir := filepath.Join(c.LokiBuffer, bufferFolder)
	shown := lokimetrics.New(func(yield func(buffer string, s *loki.Stats)) {
		s := shipper.Stats()
		yield(dir, &s)
	})
	shipper, err = loki.Open(loki.Options{
		Dir: dir, MaxBytes: loki.DefaultBufferBytes, Sync: loki.DefaultSync, Service: "backends",
		OnRequest: func(status int, took time.Duration) { shown.Request(dir, status, took) },
	}, c.shipping())
	if err != nil {
		return nil, nil, fmt.Errorf("LOKI_BUFFER: %w", err)
	}
	c.collectors = append(c.collectors, shown)
	return zapcore.NewMultiWriteSyncer(out, shipper), func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		_ = shipper.Close(ctx) // it says by itself what is left
	}, nil
}

// shipping returns where lines go and what they carry.
//
// The label "instance" gives each machine streams of its own: Loki refuses a line
// that is an hour behind the newest of its stream, so the backlog of one would be
// held against the fresh lines of another.
func (c *Config) shipping() loki.Settings {
	instance, err := os.Hostname()
	if err != nil {
		instance = "unknown"
	}
	return loki.Settings{
		URL:    c.LokiURL.Reveal(),
		Tenant: loki.Value{Static: c.LokiTenant},
		Labels: append(loki.DefaultLabels(),
			loki.Label{Name: "env", Value: loki.Value{Static: c.Environment}},
			loki.Label{Name: "instance", Value: loki.Value{Static: instance}}),
	}
}

// validateShipping names the setting that is wrong.
func (c *Config) validateShipping() error {
	if c.LokiURL == "" {
		return nil
	}
	s := c.shipping()
	if _, err := (loki.Settings{URL: s.URL}).Complete(); err != nil {
		return fmt.Errorf("LOKI_URL: %w", err)
	}
	var faults []error
	if _, err := (loki.Settings{URL: s.URL, Tenant: s.Tenant}).Complete(); err != nil {
		faults = append(faults, fmt.Errorf("LOKI_TENANT: %w", err))
	}
	if _, err := (loki.Settings{URL: s.URL, Labels: s.Labels}).Complete(); err != nil {
		faults = append(faults, fmt.Errorf("ENVIRONMENT: %w", err))
	}
	return join(faults)
}
