package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// newTerminal returns the two ends of a terminal: what is written to the first
// is typed at the second.
func newTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("skipped: there are no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	var locked, number int32
	for request, value := range map[uintptr]*int32{syscall.TIOCSPTLCK: &locked, syscall.TIOCGPTN: &number} {
		_, _, failed := syscall.Syscall(syscall.SYS_IOCTL, keyboard.Fd(), request, uintptr(unsafe.Pointer(value)))
		require.Zero(t, failed)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = terminal.Close() })
	return keyboard, terminal
}

func TestBootstrapAsksOnATerminal(t *testing.T) {
	t.Parallel()
	s := newInstallation(t)
	s["PASSWORD_MIN"] = "17"
	keyboard, terminal := newTerminal(t)
	_, err := keyboard.WriteString(adminPassword + "\n" + adminPassword + "\n")
	require.NoError(t, err)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), environment{args: strings.Fields(bootstrapLine), stdin: terminal, stdout: &stdout, stderr: &stderr, lookup: s.lookup})
	require.Equal(t, exitOK, code, &stderr)
	require.Equal(t, "Password, at least 17 characters: \nAgain: \n", stderr.String())
	require.Contains(t, stdout.String(), "is ready")
}
