package redisclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// clientName is what CLIENT LIST shows.
	clientName = "tenantgate"
	// timeout bounds each step that no context bounds: connecting, the TLS
	// handshake, one reply. Callers give contexts that end sooner.
	timeout = 500 * time.Millisecond
	// discoveryTimeout bounds connecting by way of Sentinels. go-redis asks the one
	// in use again, then all of them, then connects: with the time of one step, a
	// single silent Sentinel can use up all of it.
	discoveryTimeout = 4 * timeout
	// poolSize is the number of connections to a server besides subscriptions.
	poolSize = 8
	// maxIdle is less than what firewalls allow: a connection that one of them
	// has forgotten swallows a command.
	maxIdle = time.Minute
	// clusterRefresh is the age at which the map of a cluster is read again. go-redis
	// does so on its own only when a node answers that it has moved, and a dead
	// one does not.
	clusterRefresh = 5 * time.Second
)

// Open returns a client, which connects when it is used: Open fails only if a
// file named in the options cannot be used. The caller closes the client.
//
// Every call ends with its context, whatever Redis does, and no command is sent
// again by itself after it may have been obeyed; only in a cluster a connection
// that breaks during a command is tried once more, because go-redis has one
// limit for that and for following a slot to its new node.
func (o Options) Open() (redis.UniversalClient, error) {
	// go-redis writes to stderr what it also returns: the callers log each change
	// of state once, and as JSON. The setting is one for the process.
	redis.SetLogger(&logging.VoidLogger{})
	if _, err := o.tlsConfig(); err != nil {
		return nil, err
	}
	settings := o.settings()
	switch o.scheme.kind {
	case sentinel:
		s := settings.Failover()
		s.DialTimeout = discoveryTimeout // of the master; dial bounds each single step
		return redis.NewFailoverClient(s), nil
	case cluster:
		s := settings.Cluster()
		s.ClusterStateReloadInterval = clusterRefresh
		// With policies, a command waits for the reply to COMMAND, with a
		// deadline of its own (5 s), and again each time if the ACL forbids it.
		s.DisableRoutingPolicies = true
		return redis.NewClusterClient(s), nil
	default:
		return redis.NewClient(settings.Simple()), nil
	}
}

// settings returns what all kinds of clients have in common.
func (o Options) settings() *redis.UniversalOptions {
	return &redis.UniversalOptions{
		Addrs:            o.addrs,
		DB:               o.database,
		MasterName:       o.master,
		Username:         o.username,
		Password:         o.password,
		SentinelUsername: o.sentinelUsername,
		SentinelPassword: o.sentinelPassword,

		Dialer: o.dial,
		// ClientName and the identity would cost a round trip each and, the name,
		// the connection if the ACL forbids it.
		OnConnect:       setName,
		DisableIdentity: true,
		// RESP3 brings pushed messages that go-redis looks for before each command,
		// and that only its features below use.
		Protocol:                 2,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},

		MaxRetries:            -1,
		MaxRedirects:          1,
		MinRetryBackoff:       -1,
		MaxRetryBackoff:       -1,
		DialerRetries:         1,
		DialTimeout:           timeout,
		ReadTimeout:           timeout,
		WriteTimeout:          timeout,
		PoolTimeout:           timeout,
		ContextTimeoutEnabled: true,

		PoolSize: poolSize,
		// One pool, so that what is warm for commands is warm for pipelines.
		PipelinePoolSize: -1,
		// Any other number dials as soon as the client exists.
		MinIdleConns:    0,
		ConnMaxIdleTime: maxIdle,
	}
}

// setName tells a new connection's server who we are, if it wants to know.
func setName(ctx context.Context, conn *redis.Conn) error {
	err := conn.ClientSetName(ctx, clientName).Err()
	if refusal := redis.Error(nil); errors.As(err, &refusal) {
		return nil
	}
	return err
}

// dial makes one connection. Unlike go-redis's own dialer it keeps to the
// context during a TLS handshake as well.
func (o Options) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := &net.Dialer{
		Timeout:         timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	// Read for every connection, so that a renewed certificate needs no restart.
	config, err := o.tlsConfig()
	if err != nil {
		return nil, err
	}
	if config == nil {
		return dialer.DialContext(ctx, network, addr)
	}
	return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, network, addr)
}

// tlsConfig reads the files of the options. It is nil without TLS.
func (o Options) tlsConfig() (*tls.Config, error) {
	if !o.scheme.tls {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.serverName}
	var err error
	if config.RootCAs, err = o.authorities(); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, fmt.Errorf("cert and key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// authorities returns who may have signed the server's certificate. The
// system's are read once, by Open: in a handshake they would use up its time.
func (o Options) authorities() (*x509.CertPool, error) {
	if o.ca == "" {
		return x509.SystemCertPool()
	}
	pem, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate: give a PEM file", o.ca)
	}
	return pool, nil
}
