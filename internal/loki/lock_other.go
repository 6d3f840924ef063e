//go:build !unix

package loki

import (
	"io"
	"os"
	"path/filepath"
)

// lockFolder opens the folder's lock file: this system has no lock that ends with
// the process, so the operator must give each process a folder of its own.
func lockFolder(dir string) (io.Closer, error) {
	return os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
}
