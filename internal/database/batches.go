package database

import (
	"context"
	"time"
)

// batchSize is how many rows one transaction of [DB.InBatches] changes: few
// enough that requests beside it hardly wait for the writer.
const batchSize = 500

// maxRest bounds the pause between two batches, whatever the clock does.
const maxRest = time.Second

// InBatches runs batch, each time in a transaction of its own, until it changes
// fewer rows than the limit that it is given, and returns how many it changed in
// all. Like the function of [DB.InTx], batch may run more than once for one
// transaction. After each it rests for as long as that one took twice: a process
// beside this one asks for SQLite's writer only now and then, and must find it
// free. It may run beside live traffic and beside itself.
func (db *DB) InBatches(ctx context.Context, batch func(tx *Tx, limit int) (changed int, err error)) (int, error) {
	for total := 0; ; {
		began, n := db.Now(), 0
		err := db.InTx(ctx, func(tx *Tx) (err error) {
			n, err = batch(tx, batchSize)
			return err
		})
		if err != nil {
			return total, err
		}
		if total += n; n < batchSize {
			return total, nil
		}
		if err := rest(ctx, 2*db.Now().Sub(began)); err != nil {
			return total, err
		}
	}
}

// rest waits, for no longer than maxRest, or returns the context's error.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(min(d, maxRest))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
