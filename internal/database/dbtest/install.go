package dbtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// installation is where PostgreSQL's programs are and who runs them.
type installation struct {
	bin string
	// account is nil for ours. PostgreSQL does not run as root.
	account *syscall.Credential
}

// findInstallation looks where Debian puts the programs, and on PATH.
func findInstallation() (installation, error) {
	var found installation
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb"} {
		paths, _ := filepath.Glob(pattern) // the patterns are good
		for _, path := range paths {
			found.bin = filepath.Dir(path) // the last has the highest number, up to 99
		}
	}
	if path, err := exec.LookPath("initdb"); found.bin == "" && err == nil {
		found.bin = filepath.Dir(path)
	}
	if found.bin == "" {
		return installation{}, errors.New("initdb was not found: apt-get install postgresql")
	}
	if os.Getuid() != 0 {
		return found, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return installation{}, errors.New("there is no user postgres: run the tests as somebody else than root")
	}
	uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
	found.account = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return found, errors.Join(uidErr, gidErr)
}

// tempDir makes a folder for who runs the server.
func (i installation) tempDir() (string, error) {
	dir, err := os.MkdirTemp("", "tenantgate-postgres-")
	if err != nil || i.account == nil {
		return dir, err
	}
	return dir, os.Chown(dir, int(i.account.Uid), int(i.account.Gid))
}

// owner returns the number of the user who runs the server.
func (i installation) owner() int {
	if i.account == nil {
		return os.Getuid()
	}
	return int(i.account.Uid)
}

// initialised returns the folder of a cluster that no server has used, to be
// copied. Making one takes seconds: it is kept for all test processes.
var initialised = sync.OnceValues(func() (string, error) {
	install, err := findInstallation()
	if err != nil {
		return "", err
	}
	program, err := os.Stat(filepath.Join(install.bin, "initdb"))
	if err != nil {
		return "", err
	}
	kept := filepath.Join(os.TempDir(), fmt.Sprintf("tenantgate-initdb-%d-%x", install.owner(), program.ModTime().UnixNano()))
	if install.owns(kept) {
		return kept, nil
	}
	dir, err := install.tempDir()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left of it harms nobody
	if err := install.initdb(dir); err != nil {
		return "", err
	}
	err = os.Rename(filepath.Join(dir, "data"), kept)
	if err != nil && install.owns(kept) {
		err = nil // another process was faster
	}
	return kept, err
})

// owns reports whether a folder is there and is nobody else's.
func (i installation) owns(folder string) bool {
	info, err := os.Lstat(folder)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == i.owner()
}

// initdb makes a cluster in dir/data.
func (i installation) initdb(dir string) error {
	pwfile := filepath.Join(dir, "password")
	if err := os.WriteFile(pwfile, []byte(password+"\n"), 0o644); err != nil { //nolint:gosec // a password of tests
		return err
	}
	cmd := exec.CommandContext(context.Background(), filepath.Join(i.bin, "initdb"), "-D", filepath.Join(dir, "data"), //nolint:gosec // a program of PostgreSQL
		"-U", superuser, "-A", "scram-sha-256", "--pwfile", pwfile, "-E", "UTF8", "--locale=C", "--no-sync")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: i.account}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
