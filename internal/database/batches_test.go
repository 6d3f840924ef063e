package database_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func TestInBatches(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := dbtest.Open(t, url, clock.System{})
		left, calls := 1200, 0
		n, err := db.InBatches(t.Context(), func(_ *database.Tx, limit int) (int, error) {
			calls++
			done := min(left, limit)
			left -= done
			return done, nil
		})
		require.NoError(t, err)
		require.Equal(t, 1200, n)
		require.Zero(t, left)
		require.Equal(t, 3, calls, "a batch that is not full is the last one")

		calls = 0
		failure := errors.New("the second batch fails")
		n, err = db.InBatches(t.Context(), func(_ *database.Tx, limit int) (int, error) {
			if calls++; calls == 2 {
				return limit, failure
			}
			return limit, nil
		})
		require.ErrorIs(t, err, failure)
		require.Equal(t, 500, n, "what was committed counts")

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		calls = 0
		_, err = db.InBatches(ctx, func(_ *database.Tx, limit int) (int, error) {
			if calls++; calls == 2 {
				cancel()
			}
			return limit, nil
		})
		require.Error(t, err, "whether the end is met by the commit or by the rest after it")
		require.Equal(t, 2, calls)
	})
}
