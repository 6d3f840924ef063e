package segment_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

// killFrame is the id-th frame of the test below; its size varies.
func killFrame(id int64) segment.Frame {
	payload := []byte(strings.Repeat(fmt.Sprintf("%d ", id), int(id*7919%400)+1))
	return segment.Frame{Lines: int(id%9 + 1), Oldest: id, Newest: id, Payload: payload}
}

// appendUntilKilled is the process that is killed: it appends frames from id first
// on and acknowledges them, and says what it did after each call returned.
func appendUntilKilled(dir string, first int64) error {
	l, err := segment.Open(dir, segment.Options{SegmentBytes: 20_000})
	if err != nil {
		return err
	}
	failed := make(chan error)
	say := func(what string, from, to int64) {
		if _, err := fmt.Fprintf(os.Stdout, "\n%s %d %d\n", what, from, to); err != nil {
			failed <- err
		}
	}
	go func() {
		for id := first; ; id++ {
			if err := l.Append(killFrame(id)); err != nil {
				failed <- err
			}
			say("appended", id, id)
		}
	}()
	go func() {
		var last *segment.Batch
		done := func(b *segment.Batch) {
			if err := l.Done(b); err != nil {
				failed <- err
			}
			say("done", b.Frames[0].Oldest, b.Frames[len(b.Frames)-1].Newest)
		}
		for {
			b, err := l.Next(rand.IntN(8000))
			if err != nil {
				failed <- err
			}
			if b == nil {
				<-l.Changed()
				continue
			}
			say("issued", b.Frames[0].Oldest, b.Frames[len(b.Frames)-1].Newest)
			switch rand.IntN(3) { // up to three on their way, done in any order
			case 0:
				done(b)
			case 1:
				if last == nil {
					last = b
					continue
				}
				done(b)
				fallthrough
			case 2:
				if last != nil {
					done(last)
					last = nil
				}
				done(b)
			}
			if rand.IntN(50) == 0 {
				if err := l.Sync(); err != nil {
					failed <- err
				}
			}
		}
	}()
	return <-failed
}

func TestNothingIsLostWhenTheProcessIsKilled(t *testing.T) {
	if dir := os.Getenv("SEGMENT_KILL_DIR"); dir != "" {
		var first int64
		_, err := fmt.Sscan(os.Getenv("SEGMENT_KILL_FIRST"), &first)
		require.NoError(t, err)
		require.NoError(t, appendUntilKilled(dir, first))
	}
	t.Parallel()
	dir := t.TempDir()
	// The frames that must be there, and the first that was not given out for sure.
	acked, appended, issued := int64(0), int64(0), int64(0)
	for round := range 8 {
		said := killedWhile(t, dir, appended+1)
		done := make(map[int64]int64) // batches, first frame to last
		batch := make(map[int64]bool)
		for _, event := range said {
			switch event.what {
			case "appended":
				appended = event.to
			case "issued":
				issued = max(issued, event.to)
				batch[event.from] = true
			case "done":
				done[event.from] = event.to
				require.True(t, batch[event.from])
			}
		}
		for to, ok := done[acked+1]; ok; to, ok = done[acked+1] {
			acked = to
		}

		copied := t.TempDir()
		require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
		l := open(t, copied, 0)
		st := l.Stats()
		require.Zero(t, st.Corrupt)
		var found []int64
		var lines, resent, mayBeSent int64
		if b := next(t, l, everything); b != nil {
			for _, f := range b.Frames {
				require.Equal(t, killFrame(f.Oldest), f)
				found = append(found, f.Oldest)
				lines += int64(f.Lines)
				if f.Oldest <= issued {
					resent += int64(f.Lines)
				}
			}
		}
		require.Equal(t, lines, st.Lines)
		for i, id := range found {
			require.Equal(t, found[0]+int64(i), id, "in order, each one once")
		}
		last := appended
		if len(found) > 0 {
			last = found[len(found)-1]
			// Done may have come to its end without a word.
			require.GreaterOrEqual(t, found[0], acked+1, "what is acknowledged does not come back")
			require.LessOrEqual(t, found[0], issued+1, "what was not given out is not acknowledged")
			mayBeSent = lines
		} else {
			require.LessOrEqual(t, appended, issued)
		}
		require.Contains(t, []int64{appended, appended + 1}, last, "each Append that returned, and at most the one that did not")
		require.GreaterOrEqual(t, st.Resent, resent, "what was given out")
		require.LessOrEqual(t, st.Resent, mayBeSent)
		appended = last
		if len(found) > 0 {
			acked = found[0] - 1
		} else {
			acked = last
		}
		t.Logf("round %d: %d events, appended %d, issued %d, acknowledged %d, %d frames left, %d lines resent, %d bytes torn",
			round, len(said), appended, issued, acked, len(found), st.Resent, st.Torn)
		// What Next was about to give out counts as given out in the next round.
		for n := st.Resent; len(found) > 0 && n > 0; found = found[1:] {
			n -= int64(killFrame(found[0]).Lines)
			issued = max(issued, found[0])
		}
	}
}

type event struct {
	what     string
	from, to int64
}

// killedWhile runs appendUntilKilled for a while, kills it, and returns what it said.
func killedWhile(t *testing.T, dir string, first int64) (said []event) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "SEGMENT_KILL_DIR="+dir, fmt.Sprintf("SEGMENT_KILL_FIRST=%d", first))
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	killer := time.AfterFunc(time.Hour, func() { _ = cmd.Process.Kill() })
	var output strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var e event
		if _, err := fmt.Sscanf(lines.Text(), "%s %d %d", &e.what, &e.from, &e.to); err != nil {
			output.WriteString(lines.Text())
			continue
		}
		if len(said) == 0 { // it works: kill it at a random moment from now on
			killer.Reset(rand.N(150 * time.Millisecond))
		}
		said = append(said, e)
	}
	require.ErrorContains(t, cmd.Wait(), "killed", output.String())
	return said
}

func TestADeletedFolderWhileInUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	l := open(t, dir, 5000)
	stop := make(chan struct{})
	deleted := make(chan struct{})
	go func() {
		defer close(deleted)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.RemoveAll(dir)
			}
		}
	}()
	var appended, got, failed int64
	for n := 1; n <= 1000; n++ {
		if l.Append(frame(n%20+1)) == nil {
			appended += int64(n%20 + 1)
		} else {
			failed++
		}
		if b, err := l.Next(2000); err == nil && b != nil {
			got += b.Lines()
			_ = l.Done(b)
		}
	}
	close(stop)
	<-deleted
	for l.Stats().UnreadLines > 0 {
		if b, err := l.Next(2000); err == nil && b != nil {
			got += b.Lines()
			require.NoError(t, l.Done(b))
		}
	}
	require.Equal(t, appended, got+l.Stats().Lost, "%d appends failed", failed)
	require.NoError(t, l.Append(frame(1)))
	require.Equal(t, []int{1}, numbers(t, next(t, l, everything)))
}
