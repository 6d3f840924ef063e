package e2e

import (
	"fmt"
	"os"
	"testing"
)

// binaries is the folder of the built commands.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "tenantgate-e2e-")
		if err == nil {
			defer func() { _ = os.RemoveAll(folder) }()
			err = Build(folder)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		binaries = folder
		return m.Run()
	}())
}
