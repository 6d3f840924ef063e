package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/backends/demo"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// services are the backends that dev runs beside the gateway.
type services struct {
	auth, tenant, invitation, demo string // bound addresses, host:port
	fresh                          bool   // the demo data was made just now
	failed                         chan error
	cancel                         context.CancelFunc
	running                        sync.WaitGroup
}

// anyPort lets the system choose a loopback port.
const anyPort = "127.0.0.1:0"

// startBackends runs the backends on free loopback ports until stop is called.
// What ends them early comes through failed.
func startBackends(ctx context.Context, config app.Config, log *zap.Logger) (*services, error) {
	backends, err := app.New(ctx, config, log)
	if err != nil {
		return nil, err
	}
	s := &services{failed: make(chan error, 2)}
	if s.fresh, err = seed.AddDemo(ctx, backends.DB(), backends.Hasher()); err != nil {
		return nil, errors.Join(err, backends.Close())
	}
	if err := backends.Listen(ctx); err != nil {
		return nil, errors.Join(err, backends.Close())
	}
	s.auth, s.tenant, s.invitation = backends.AuthAddr(), backends.TenantAddr(), backends.InvitationAddr()

	// Not ctx: the backends outlive the signal until the gateway has stopped.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.running.Go(func() {
		if err := backends.Run(running); err != nil {
			s.failed <- fmt.Errorf("backends: %w", err)
		}
	})
	if err := s.startDemo(running, config.GatewaySecret, log); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// startDemo runs the service that fails on demand.
func (s *services) startDemo(ctx context.Context, gatewaySecret secret.String, log *zap.Logger) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", anyPort)
	if err != nil {
		return fmt.Errorf("demo service: %w", err)
	}
	s.demo = listener.Addr().String()
	server := &http.Server{
		Handler:           demo.New(demo.Config{Log: log, Clock: clock.System{}, GatewaySecret: gatewaySecret}),
		ReadHeaderTimeout: 5 * time.Second,
	}
	s.running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("demo service: %w", err)
		}
	})
	s.running.Go(func() {
		<-ctx.Done()
		_ = server.Close() // a delayed answer must not hold up Ctrl-C
	})
	return nil
}

// stop ends the backends and waits for them.
func (s *services) stop() {
	s.cancel()
	s.running.Wait()
}
