package loki

import (
	"encoding/json"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/tenantgate/tenantgate/internal/logging"
)

const (
	// reportEvery is how often a line tells of the shipping itself, if there is
	// anything to tell.
	reportEvery = time.Minute
	// heartbeat is how many times there may be nothing: then a line says that the
	// process is there and its lines arrive.
	heartbeat = 10
)

// Stats is what a shipper has done since it was opened, and what it has to do.
type Stats struct {
	// AcceptedLines and AcceptedBytes were taken by Write; StoredLines of them
	// were put on disk.
	AcceptedLines, AcceptedBytes, StoredLines int64
	// FailedRequests will be repeated. SentLines and SentBytes (compressed) went
	// out, each time they did.
	FailedRequests, SentLines, SentBytes int64
	// AcknowledgedLines were taken by Loki.
	AcknowledgedLines int64
	// ResentLines were sent again although Loki may have taken them already, each
	// time they were. The reasons are "restart", for those an earlier process was
	// about to send when it ended, and "no_answer".
	ResentLines map[string]int64
	// RejectedLines were refused by Loki for good, DroppedLines were given up
	// here; both by reason.
	RejectedLines, DroppedLines map[string]int64
	// TruncatedLines were too long for Loki and were cut.
	TruncatedLines int64
	// OverflowedValues are lines with a value of a label beyond the first 100, by
	// label.
	OverflowedValues map[string]int64
	// BufferLines and BufferBytes wait on disk.
	BufferLines, BufferBytes int64
	// Oldest is when the oldest waiting line was taken; zero if none waits.
	Oldest time.Time
	// Retrying says that the last request did not succeed and will be repeated.
	Retrying bool
}

// tally counts what is not counted elsewhere.
type tally struct {
	mu    sync.Mutex
	stats Stats
}

func newTally() *tally {
	return &tally{stats: Stats{ResentLines: map[string]int64{}, RejectedLines: map[string]int64{}, DroppedLines: map[string]int64{}, OverflowedValues: map[string]int64{}}}
}

func (t *tally) change(f func(*Stats)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.stats)
}

func (t *tally) request(status int) {
	refused := status == http.StatusBadRequest || status == http.StatusUnprocessableEntity // for good
	if (status < 200 || status > 299) && !refused {
		t.change(func(s *Stats) { s.FailedRequests++ })
	}
}

func (t *tally) sent(lines, bytes int) {
	t.change(func(s *Stats) {
		s.SentLines += int64(lines)
		s.SentBytes += int64(bytes)
	})
}

func (t *tally) drop(reason string, lines int64) {
	if lines > 0 {
		t.change(func(s *Stats) { s.DroppedLines[reason] += lines })
	}
}

// stored returns how many lines are on disk, were, or could not be put there.
func (t *tally) stored() (n int64) {
	t.change(func(s *Stats) { n = s.StoredLines + s.DroppedLines["disk"] })
	return n
}

// add counts what became of a batch.
func (t *tally) add(r result) {
	t.change(func(s *Stats) {
		s.AcknowledgedLines += int64(r.acknowledged)
		if r.repeated > 0 {
			s.ResentLines["no_answer"] += r.repeated
		}
		for reason, n := range r.rejected {
			s.RejectedLines[reason] += n
		}
		for reason, n := range r.dropped {
			s.DroppedLines[reason] += n
		}
	})
}

// Stats returns the counters of now.
func (s *Shipper) Stats() Stats {
	s.tally.mu.Lock()
	stats := s.tally.stats
	stats.RejectedLines, stats.DroppedLines = maps.Clone(stats.RejectedLines), maps.Clone(stats.DroppedLines)
	stats.OverflowedValues, stats.ResentLines = maps.Clone(stats.OverflowedValues), maps.Clone(stats.ResentLines)
	s.tally.mu.Unlock()
	var overflowed int64
	stats.AcceptedLines, stats.AcceptedBytes, overflowed = s.queue.counts()
	if overflowed > 0 {
		stats.DroppedLines["queue_full"] = overflowed
	}
	for _, l := range s.all() {
		on := l.log.Stats()
		stats.BufferLines += on.Lines
		stats.BufferBytes += on.Bytes
		if on.Lost > 0 {
			stats.DroppedLines["lost"] += on.Lost
		}
		if on.Oldest != 0 && (stats.Oldest.IsZero() || on.Oldest < stats.Oldest.UnixNano()) {
			stats.Oldest = time.Unix(0, on.Oldest)
		}
		stats.Retrying = stats.Retrying || l.retrying.Load()
	}
	return stats
}

// report puts a line about the shipping into the queue, if there is anything to
// tell since the last one, or it is time for a sign of life.
func (s *Shipper) report() {
	now := s.Stats()
	line := reportLine{
		Time: s.options.Clock.Now().UTC().Format(logging.TimeLayout), Level: "info", Service: s.options.Service, Logger: "loki", Message: "log shipping",
		Accepted: now.AcceptedLines - s.reported.AcceptedLines, Acknowledged: now.AcknowledgedLines - s.reported.AcknowledgedLines,
		Rejected: sum(now.RejectedLines) - sum(s.reported.RejectedLines), Dropped: sum(now.DroppedLines) - sum(s.reported.DroppedLines),
		Retries:     now.FailedRequests - s.reported.FailedRequests,
		BufferLines: now.BufferLines, BufferBytes: now.BufferBytes,
	}
	if !now.Oldest.IsZero() {
		line.OldestMS = s.options.Clock.Now().Sub(now.Oldest).Milliseconds()
	}
	// An acknowledgement is that of the last such line.
	if line.Accepted+line.Rejected+line.Dropped+line.Retries == 0 && line.Acknowledged <= 1 {
		if s.quiet++; s.quiet < heartbeat {
			return
		}
	}
	s.quiet = 0
	if line.Rejected+line.Dropped > 0 {
		line.Level = "warn"
	}
	content, err := json.Marshal(line)
	if err != nil {
		s.diagnostics.printf("%v", err)
		return
	}
	s.queue.put(content)
	now.AcceptedLines++ // this one is nothing to tell of
	s.reported = now
}

// reportLine is a line about the shipping: what happened since the last one, and
// what waits.
type reportLine struct {
	Time         string `json:"ts"`
	Level        string `json:"level"`
	Service      string `json:"service"`
	Logger       string `json:"logger"`
	Message      string `json:"msg"`
	Accepted     int64  `json:"accepted"`
	Acknowledged int64  `json:"acknowledged"`
	Rejected     int64  `json:"rejected"`
	Dropped      int64  `json:"dropped"`
	Retries      int64  `json:"retries"`
	BufferLines  int64  `json:"buffer_lines"`
	BufferBytes  int64  `json:"buffer_bytes"`
	OldestMS     int64  `json:"oldest_ms"`
}

func sum(counts map[string]int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}
