package loki

import (
	"bytes"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// TraceCommand is the command `trace`.
func TraceCommand(c clock.Clock) *cobra.Command {
	cmd := &cobra.Command{Use: "trace", SilenceUsage: true}
	addTraceCommand(cmd, c)
	return cmd
}

// TracePage is how many lines are asked for at a time.
const TracePage = tracePage

// TraceText is how people see a line, "" if it is not of the trace. The error says
// that it is no JSON object.
func TraceText(line []byte, id string, colours bool) (string, error) {
	found := traceLines{id: id, seen: map[traceKey]bool{}}
	found.add(line, time.Time{})
	if _, err := parseTraceLine(line, id); err != nil || len(found.lines) == 0 {
		return "", err
	}
	var out bytes.Buffer
	found.writeText(&out, time.UTC, colours)
	return out.String(), nil
}

// ParseLokiAnswer returns how many lines an answer holds.
func ParseLokiAnswer(content []byte) (int, error) {
	entries, err := parseLokiAnswer(content)
	return len(entries), err
}
