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
		code := m.Run()
		if code == 0 {
			if err := writeReport(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return code
	}())
}
