package permission_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Old changes go, so that a database does not grow by every change for ever.
func TestOldChangesArePruned(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, db store) {
		db.change(t, []string{`INSERT INTO permission_changes (seq, tenant_id, changed_at) VALUES (100999, 1, 1), (101000, 1, 1), (200998, 1, 1)`}, 1, 1)
		var lowest, newest int64
		require.NoError(t, db.Reader().QueryRow(`SELECT MIN(seq), MAX(seq) FROM permission_changes`).Scan(&lowest, &newest))
		require.Equal(t, [2]int64{101_000 + 99_998, 201_000}, [2]int64{lowest, newest})
	})
}
