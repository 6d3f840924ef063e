//go:build unix

package filelock_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/filelock"
)

func TestOneHasTheLockUntilItIsClosed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	first, err := filelock.Lock(path)
	require.NoError(t, err)

	_, err = filelock.Lock(path)
	require.Equal(t, filelock.InUseError{Process: strconv.Itoa(os.Getpid())}, err)
	require.EqualError(t, err, "used by process "+strconv.Itoa(os.Getpid()))

	require.NoError(t, first.Close())
	next, err := filelock.Lock(path)
	require.NoError(t, err)
	require.NoError(t, next.Close())
}

func TestALockFileThatCannotBeOpenedIsAnError(t *testing.T) {
	t.Parallel()
	lock, err := filelock.Lock(filepath.Join(t.TempDir(), "none", "lock"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Nil(t, lock)
}
