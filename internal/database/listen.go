package database

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// goodbye bounds how long a connection's end may take.
const goodbye = time.Second

var errNoMoreDials = errors.New("the connection is ending")

// Listen calls f for every announcement on the channel (see [Tx.Announce]), and
// once as soon as it hears them: what changed before is to be looked for then.
// It returns nil when ctx ends and an error when the connection is lost, of
// which a server that is gone without a word is noticed after 14 seconds; the
// caller listens again. The connection is none of the pool's. f should return
// soon. On SQLite nothing is ever heard.
func (db *DB) Listen(ctx context.Context, channel string, f func()) error {
	if db.postgres == nil {
		<-ctx.Done()
		return nil
	}
	err := db.listen(ctx, channel, f)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listen for changes: %w", plain(err))
}

func (db *DB) listen(ctx context.Context, channel string, f func()) error {
	config := db.postgres.Copy()
	// To end a connection that failed, pgx dials the server once more, in a
	// goroutine and for up to 15 seconds. Nobody needs that here.
	var connected atomic.Bool
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if connected.Load() {
			return nil, errNoMoreDials
		}
		return dial(ctx, network, address)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	connected.Store(true)
	defer end(conn)
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	for {
		f()
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}

// end closes a connection and returns when nothing of it is left.
func end(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	_ = conn.Close(ctx)              // says goodbye, if anybody is there
	_ = conn.PgConn().Conn().Close() // ends pgx's own wait for the server
	<-conn.PgConn().CleanupDone()
}
