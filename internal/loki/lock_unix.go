//go:build unix

package loki

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockFolder makes this process the one that has the folder, until the file is
// closed. The system lifts the lock of a process that was killed. While another
// has it the error is an errInUse.
func lockFolder(dir string) (io.Closer, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		content, _ := io.ReadAll(io.LimitReader(f, 32)) // for the text only
		f.Close()
		return nil, errInUse{dir, strings.TrimSpace(string(content))}
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	_ = f.Truncate(0) // the number is for people only
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return f, nil
}
