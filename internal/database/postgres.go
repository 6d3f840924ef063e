package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenantgate/tenantgate/internal/clock"
)

const (
	// connectTimeout bounds making a connection unless the URL says connect_timeout.
	connectTimeout = 5 * time.Second
	// maxConns is the size of each of the two pools unless the URL says
	// pool_max_conns: a server has 100 connections for everybody.
	maxConns, mostConns = 8, 1000
	// Connections are renewed, so that a new address of the server is found, and
	// idle ones are given back.
	maxLifetime, maxIdleTime = 30 * time.Minute, 5 * time.Minute

	// lockTimeout is how long a transaction waits for a lock. idleTimeout is when
	// the server gives up a transaction that holds one and says nothing: its
	// program may have lost the network.
	lockTimeout, idleTimeout = "15s", "30s"
)

// The codes of PostgreSQL, https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	codeUniqueViolation      = "23505"
	codeForeignKeyViolation  = "23503"
	codeSerializationFailure = "40001"
	codeDeadlock             = "40P01"
	codeLockTimeout          = "55P03"
	codeUndefinedTable       = "42P01"
)

func openPostgres(ctx context.Context, rawURL string, c clock.Clock) (*DB, error) {
	config, size, err := parsePostgres(rawURL)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	write := newPool(config, size)
	if err := write.PingContext(ctx); err != nil {
		_ = write.Close()
		if failed := (*pgconn.ConnectError)(nil); errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &failed) {
			err = unreachable(&config.Config, "no answer in time", err) // the pool gave up first
		}
		return nil, fmt.Errorf("open database: %w", plain(err))
	}
	return &DB{write: write, read: newReadPool(config, size), postgres: config, clock: c}, nil
}

func openPostgresReadOnly(rawURL string, c clock.Clock) (*DB, error) {
	config, size, err := parsePostgres(rawURL)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return &DB{read: newReadPool(config, size), postgres: config, clock: c}, nil
}

func newReadPool(config *pgx.ConnConfig, size int) *sql.DB {
	config = config.Copy()
	config.RuntimeParams["default_transaction_read_only"] = "on"
	return newPool(config, size)
}

// newPool makes no connection.
func newPool(config *pgx.ConnConfig, size int) *sql.DB {
	pool := stdlib.OpenDB(*config)
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	pool.SetConnMaxLifetime(maxLifetime)
	pool.SetConnMaxIdleTime(maxIdleTime)
	return pool
}

var (
	errURL = errors.New("this is no URL of a PostgreSQL database: write postgres://USER:PASSWORD@HOST:5432/DATABASE " +
		"and in a user name, a password or an option @ as %40, : as %3A, / as %2F, ? as %3F, # as %23 and % as %25")
	errPoolSize = fmt.Errorf("option pool_max_conns of the database's URL is no number from 1 to %d", mostConns)

	validHosts = regexp.MustCompile(`^[A-Za-z0-9_.:,%\[\]-]*$`)
)

// parsePostgres reads a URL as libpq does and the size of a pool from its
// option pool_max_conns. Its errors repeat nothing of the URL: a password may
// have slipped into any part.
func parsePostgres(rawURL string) (*pgx.ConnConfig, int, error) {
	rest, query, _ := strings.Cut(rawURL[strings.Index(rawURL, "://")+len("://"):], "?")
	authority, path, _ := strings.Cut(rest, "/")
	if at := strings.Count(rawURL, "@"); at > 1 || at == 1 && !strings.Contains(authority, "@") || strings.ContainsAny(rawURL, "# \t\r\n") {
		return nil, 0, errURL
	}
	hosts := authority[strings.Index(authority, "@")+1:]
	for _, part := range []string{authority, path} {
		if _, err := url.PathUnescape(part); err != nil {
			return nil, 0, errURL
		}
	}
	if options, err := url.ParseQuery(query); err != nil || options.Has("password") || !validHosts.MatchString(hosts) {
		return nil, 0, errURL
	}
	bare, size, err := cutPoolSize(rawURL)
	if err != nil {
		return nil, 0, err
	}
	config, err := pgx.ParseConfig(bare)
	if err != nil {
		// "cannot parse `<URL>`: <what is wrong>"
		text := err.Error()
		return nil, 0, errors.New("the database's URL: " + text[strings.LastIndex(text, "`: ")+len("`: "):])
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.DialFunc = (&net.Dialer{
		Timeout: config.ConnectTimeout,
		// A server that is gone is noticed after 5 + 3×3 seconds.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3},
	}).DialContext
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "tenantgate"
	}
	return config, size, nil
}

// cutPoolSize takes the option pool_max_conns out of a URL.
func cutPoolSize(rawURL string) (bare string, size int, err error) {
	head, query, found := strings.Cut(rawURL, "?")
	if !found {
		return rawURL, maxConns, nil
	}
	size = maxConns
	var kept []string
	for option := range strings.SplitSeq(query, "&") {
		text, is := strings.CutPrefix(option, "pool_max_conns=")
		if !is {
			kept = append(kept, option)
			continue
		}
		if size, err = strconv.Atoi(text); err != nil || size < 1 || size > mostConns {
			return "", 0, errPoolSize
		}
	}
	if len(kept) == 0 {
		return head, size, nil
	}
	return head + "?" + strings.Join(kept, "&"), size, nil
}

// connectError is a failure to connect in one line.
type connectError struct {
	text string
	err  error
}

func (e *connectError) Error() string { return e.text }

func (e *connectError) Unwrap() error { return e.err }

// plain puts a failure to connect into one line that names the server and the
// reason. Other errors it returns as they are.
func plain(err error) error {
	var failed *pgconn.ConnectError
	if !errors.As(err, &failed) {
		return err
	}
	var (
		said    *pgconn.PgError
		network *net.OpError
		reason  string
	)
	switch {
	case errors.As(err, &said):
		reason = said.Message
	case errors.Is(err, context.DeadlineExceeded):
		reason = "no answer in time"
	case errors.As(err, &network):
		reason = network.Err.Error()
	default:
		reason = strings.Join(strings.Fields(failed.Unwrap().Error()), " ")
	}
	return unreachable(failed.Config, reason, err)
}

// unreachable returns the error that names the servers of a URL and the reason.
func unreachable(config *pgconn.Config, reason string, err error) error {
	where := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	for _, other := range config.Fallbacks {
		if next := net.JoinHostPort(other.Host, strconv.Itoa(int(other.Port))); !strings.HasSuffix(where, next) {
			where += "," + next
		}
	}
	return &connectError{"connect to PostgreSQL at " + where + ": " + reason, err}
}

// pgCode returns the code of a PostgreSQL server's error, or "".
func pgCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// conflictsPostgres reports whether a constraint caused err.
func conflictsPostgres(err error) bool {
	code := pgCode(err)
	return code == codeUniqueViolation || code == codeForeignKeyViolation
}

// lostRace reports whether the transaction was ended in favour of another one
// and can be run again.
func lostRace(err error) bool {
	code := pgCode(err)
	return code == codeSerializationFailure || code == codeDeadlock
}

// noTablePostgres reports whether a statement named a table that does not exist.
func noTablePostgres(err error) bool { return pgCode(err) == codeUndefinedTable }

// lockNumber returns the number that stands for a name. Two names with the same
// one would wait for each other in vain, and lose nothing but time.
func lockNumber(name string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return int64(h.Sum64())
}

// The timeouts hold until the end of the transaction. They are set first.
const lockStatement = `SELECT set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),
	pg_advisory_xact_lock($3)`

func (tx *Tx) lockPostgres(ctx context.Context, name string) error {
	_, err := tx.ExecContext(ctx, lockStatement, lockTimeout, idleTimeout, lockNumber(name))
	if pgCode(err) == codeLockTimeout {
		return fmt.Errorf("lock %s: another transaction kept it for %s: %w", name, lockTimeout, err)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	return nil
}

func (tx *Tx) notifyPostgres(ctx context.Context, channel string) error {
	if _, err := tx.ExecContext(ctx, `SELECT pg_notify($1, '')`, channel); err != nil {
		return fmt.Errorf("announce on %s: %w", channel, err)
	}
	return nil
}
