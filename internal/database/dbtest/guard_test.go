package dbtest_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/servertest"
)

// A test's process that is killed, or ends by its time-out, cleans nothing up.
func TestAServerEndsWithTheProcessOfItsTest(t *testing.T) {
	for name, freeze := range map[string]bool{"running": false, "frozen": true} {
		t.Run(name, func(t *testing.T) {
			line, kill := servertest.Rerun(t, func() string {
				s := dbtest.StartServer(t)
				data, children := processes(t, s)
				if freeze {
					s.Freeze()
				}
				return fmt.Sprintln(data, children)
			})
			data, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(filepath.Dir(data))) })
			pidFile, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
			require.NoError(t, err)
			lines := strings.Split(string(pidFile), "\n")
			t.Cleanup(func() { // as the test's clean-up would
				require.NoError(t, exec.Command("ipcrm", "-m", strings.Fields(lines[6])[1]).Run())
			})
			pids := append(strings.Split(rest, ","), lines[0])
			require.Greater(t, len(pids), 3)
			for _, pid := range pids {
				require.True(t, alive(t, pid), pid)
			}

			kill()
			require.Eventually(t, func() bool {
				for _, pid := range pids {
					if alive(t, pid) {
						return false
					}
				}
				return true
			}, 20*time.Second, 10*time.Millisecond)
		})
	}
}

// processes returns the folder of the server's data and the numbers of all its
// processes but the main one and the one asked, which ends.
func processes(t *testing.T, s *dbtest.Server) (data, children string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	require.NoError(t, err)
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT current_setting('data_directory'), string_agg(pid::text, ',')
		FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type <> 'client backend'`).Scan(&data, &children))
	require.NoError(t, conn.Close(t.Context()))
	return data, children
}

// alive reports whether a process is there and has not ended: somebody else's
// child stays in the table until its parent looks at it.
func alive(t *testing.T, pid string) bool {
	t.Helper()
	n, err := strconv.Atoi(pid)
	require.NoError(t, err)
	if errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
