package servertest

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Rerun runs the test again in a process of its own, which calls start and then
// waits to be killed. Here it returns what start returned there, one line, and
// what kills that process, so that the test sees what is left of its servers.
// The variables are added to that process's environment. A test that is skipped
// there is skipped here.
func Rerun(t *testing.T, start func() string, variables ...string) (line string, kill func()) {
	t.Helper()
	const again, mark = "SERVERTEST_AGAIN", "server: "
	if os.Getenv(again) != "" {
		if _, err := os.Stdout.WriteString("\n" + mark + start() + "\n"); err != nil {
			t.Fatal(err)
		}
		select {} // until killed
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$") //nolint:gosec // this program
	cmd.Env = append(append(os.Environ(), again+"=1"), variables...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if line, found := strings.CutPrefix(lines.Text(), mark); found {
			return line, func() {
				_ = cmd.Process.Kill() // fails only if it has ended already
				_ = cmd.Wait()         // says that it was killed
			}
		}
		output.WriteString(lines.Text() + "\n")
	}
	if strings.Contains(output.String(), "--- SKIP") && cmd.Wait() == nil {
		t.Skip(output.String())
	}
	t.Fatalf("the test's other process ended: %v\n%s", cmd.Wait(), output.String())
	return "", nil
}
