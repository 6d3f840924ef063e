// Package filelock lets one process at a time use a folder, by a lock file in it.
package filelock

// InUseError says that another process has the lock.
type InUseError struct {
	Process string // its id, or "?" if it has not written it yet
}

func (e InUseError) Error() string { return "used by process " + e.Process }
