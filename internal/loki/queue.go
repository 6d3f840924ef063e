package loki

import (
	"encoding/binary"
	"sync"

	"github.com/tenantgate/tenantgate/internal/clock"
)

const (
	// blockBytes bounds the lines that wait in memory to be put on disk. There are
	// two blocks: one is filled while the other is emptied.
	blockBytes = 4 << 20
	// fullEnough is when it is not worth to wait for more lines.
	fullEnough = 64 << 10
	// maxTaken bounds what is taken of one line. Loki takes 256 KiB; the encoder
	// shortens longer ones, and tells by how much.
	maxTaken = 2 << 20
	// recordHeader is a line's time and length.
	recordHeader = 8 + 4
)

// queue holds lines from when they are written until they are put on disk. A line
// costs the writer one lock and one copy.
type queue struct {
	clock clock.Clock
	// some has a value when lines came into an empty queue, full when there are
	// enough to go on without waiting for more.
	some, full chan struct{}

	mu      sync.Mutex
	filling []byte
	spare   []byte
	last    int64 // the time of the newest line
	closed  bool

	lines, bytes, overflowed int64 // since the start
}

func newQueue(c clock.Clock) *queue {
	return &queue{
		clock: c, some: make(chan struct{}, 1), full: make(chan struct{}, 1),
		// The system gives memory as it is touched, so that this costs nothing yet.
		filling: make([]byte, 0, blockBytes), spare: make([]byte, 0, blockBytes),
	}
}

// put takes a copy of the line, with a time that no other line has. It reports
// false if the queue is closed. A line for which there is no room is counted.
func (q *queue) put(line []byte) bool {
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	taken := line[:min(len(line), maxTaken)]
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.lines++
	q.bytes += int64(len(line))
	before := len(q.filling)
	if before+recordHeader+len(taken) > cap(q.filling) {
		q.overflowed++
		return true
	}
	// Two lines of one moment with one text would be one line to Loki.
	q.last = max(q.clock.Now().UnixNano(), q.last+1)
	b := binary.LittleEndian.AppendUint64(q.filling, uint64(q.last))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(taken)))
	q.filling = append(b, taken...)
	if before == 0 {
		signal(q.some)
	}
	if before < fullEnough && len(q.filling) >= fullEnough {
		signal(q.full)
	}
	return true
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take empties the queue and calls f for each line in order. Lines can be put
// meanwhile; only one goroutine takes.
func (q *queue) take(f func(ns int64, line []byte)) {
	q.mu.Lock()
	block := q.filling
	q.filling, q.spare = q.spare[:0], nil
	q.mu.Unlock()
	for rest := block; len(rest) > 0; {
		ns := int64(binary.LittleEndian.Uint64(rest))
		n := recordHeader + int(binary.LittleEndian.Uint32(rest[8:]))
		f(ns, rest[recordHeader:n])
		rest = rest[n:]
	}
	q.mu.Lock()
	q.spare = block
	q.mu.Unlock()
}

// close refuses lines from now on.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// counts returns how many lines and bytes were taken, and how many lines of them
// had no room.
func (q *queue) counts() (lines, bytes, overflowed int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines, q.bytes, q.overflowed
}

// taken returns how many lines were taken and had room.
func (q *queue) taken() int64 {
	lines, _, overflowed := q.counts()
	return lines - overflowed
}
