package database_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
)

// TestWithoutRightsTheErrorSaysWhatToAllow reads as somebody who may write
// nowhere: SQLite wants to make its -shm file.
func TestWithoutRightsTheErrorSaysWhatToAllow(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "tenantgate")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	path := filepath.Join(folder, "t.db")
	db, err := database.Open(t.Context(), "sqlite://"+path, clock.System{})
	require.NoError(t, err)
	require.NoError(t, db.Migrate(t.Context()))
	ask := func() error {
		return asNobody(t, func() error {
			ro, err := database.OpenReadOnly("sqlite://"+path, clock.System{})
			require.NoError(t, err)
			defer func() { require.NoError(t, ro.Close()) }()
			return ro.CheckSchema(context.Background()) // without an end it runs on this very thread
		})
	}
	secret := filepath.Join(folder, "secret")
	require.NoError(t, os.WriteFile(secret, nil, 0))
	require.NoError(t, os.Chmod(folder, 0o755))
	canOpen := func(file string) bool {
		return asNobody(t, func() error {
			f, err := os.Open(file)
			if err == nil {
				err = f.Close()
			}
			return err
		}) == nil
	}
	require.NoError(t, os.Chmod(path, 0o444))
	if canOpen(secret) || !canOpen(path) {
		t.Skip("skipped: a test can't be a user without rights here, or such a user can't reach the folder of temporary files")
	}
	require.NoError(t, os.Remove(secret))
	for _, file := range []string{path + "-shm", path + "-wal"} {
		require.NoError(t, os.Chmod(file, 0o444))
	}
	require.NoError(t, os.Chmod(folder, 0o555))
	require.NoError(t, ask(), "the files of a program that has it open are enough")

	require.NoError(t, os.Chmod(folder, 0o755))
	require.NoError(t, db.Close())
	require.NoFileExists(t, path+"-shm")
	require.NoError(t, os.Chmod(folder, 0o555))
	require.ErrorContains(t, ask(), "let this process write to the folder "+folder+", where SQLite makes "+path+"-wal and -shm also to read: ")
	require.NoError(t, os.Chmod(path, 0))
	require.ErrorContains(t, ask(), "open database "+path+": ")
	require.NoError(t, os.Chmod(folder, 0o755))
}

// asNobody runs f on a thread that has no more rights to files than "others".
func asNobody(t *testing.T, f func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		err := errors.Join(syscall.Setfsgid(65534), syscall.Setfsuid(65534))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
