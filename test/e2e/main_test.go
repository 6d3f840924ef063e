package e2e

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// binaries is the folder of the built commands.
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests here wait more than they work: one more at a time than is the default.
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		_ = flag.Set(parallel.Name, strconv.Itoa(runtime.GOMAXPROCS(0)+1)) // a number: never fails
	}
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
