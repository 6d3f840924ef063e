//go:build !unix

package filelock

import (
	"io"
	"os"
)

// Lock opens the lock file at path, which is made if need be: this system has no
// lock that ends with the process, so nobody is kept out.
func Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err // not f: a nil *os.File is no nil io.Closer
	}
	return f, nil
}
