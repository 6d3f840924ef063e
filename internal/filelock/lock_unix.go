//go:build unix

package filelock

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Lock makes this process the one that has the lock file at path, which is made
// if need be and left in place, until the result is closed. The system lifts the
// lock of a process that was killed. While another has it the error is an
// [InUseError].
func Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		content, _ := io.ReadAll(io.LimitReader(f, 32)) // for the text only
		f.Close()
		return nil, InUseError{cmp.Or(strings.TrimSpace(string(content)), "?")}
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	_ = f.Truncate(0) // the number is for people only
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return f, nil
}
