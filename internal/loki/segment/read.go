package segment

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// Batch is what one Next returned.
type Batch struct {
	// Frames are in the order of Append. Their payloads stay valid.
	Frames []Frame

	total       count
	start, end  place
	first, last uint64 // segments that hold frames of it
	done        bool
}

// Lines returns how many lines the batch holds.
func (b *Batch) Lines() int64 { return b.total.lines }

// Bytes returns how long its payloads are.
func (b *Batch) Bytes() int64 { return b.total.bytes }

// Next returns the frames that follow those of the Next before: as many whole
// ones as have together at most maxBytes of payload, at least one if there is one,
// and nil if there is none. It has written down that they are given out. If it
// fails, the next call goes on where it failed. Files that somebody deleted are
// given up, and an error says so once if no frames are left.
func (l *Log) Next(maxBytes int) (*Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, l.errClosed()
	}
	if l.prepared == nil {
		var err error
		if l.prepared, err = l.prepare(int64(maxBytes)); err != nil {
			return nil, wrap(err)
		}
	}
	b := l.prepared
	if b != nil {
		if err := l.savePosition(); err != nil {
			return nil, wrap(err)
		}
		l.prepared = nil
	}
	return b, nil
}

// prepare makes the next batch; nil if there are no frames.
func (l *Log) prepare(maxBytes int64) (*Batch, error) {
	b := &Batch{start: l.read}
	var failed error
	for _, s := range l.segments {
		if s.number < l.read.segment {
			continue
		}
		if s.number > l.read.segment {
			l.read = place{segment: s.number}
		}
		full, err := l.take(b, s, maxBytes)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) {
			failed = cmp.Or(failed, fmt.Errorf("%w: deleted or cut off by somebody else, %d lines are lost", err, s.unread.lines))
			l.giveUp(s)
			continue
		}
		if err != nil {
			failed = cmp.Or(failed, err)
			break
		}
		if full {
			break
		}
		l.giveUp(s)
	}
	if len(b.Frames) == 0 {
		return nil, failed
	}
	b.end = l.read
	l.pending = append(l.pending, b)
	return b, nil
}

// giveUp goes to the end of a segment, past frames that can't be read.
func (l *Log) giveUp(s *segment) {
	l.lost += s.unread.lines
	s.unread = count{}
	l.read = s.end()
}

// take adds the frames of a segment to the batch from the read place on, and moves
// that. It is true if the next frame does not fit.
func (l *Log) take(b *Batch, s *segment, maxBytes int64) (full bool, err error) {
	if l.read.offset >= s.size {
		return false, nil
	}
	path := l.path(s.number)
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	sc := scanner{file: f, at: l.read, end: s.size}
	defer func() {
		l.read = sc.at
		known := min(sc.damaged, s.damaged)
		s.damaged -= known
		l.corrupt += sc.damaged - known
	}()
	for {
		sc.ahead = max(0, maxBytes-b.total.bytes) + headerSize
		h, ok, err := sc.header()
		if err != nil {
			return false, fmt.Errorf("read %s: %w", path, err)
		}
		if !ok {
			return false, nil
		}
		if len(b.Frames) > 0 && b.total.bytes+int64(h.length) > maxBytes {
			s.oldest = h.oldest
			return true, nil
		}
		payload, ok, err := sc.payload(h)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", path, err)
		}
		if !ok {
			continue
		}
		if len(b.Frames) == 0 {
			b.first = s.number
		}
		b.last = s.number
		b.Frames = append(b.Frames, Frame{int(h.lines), h.oldest, h.newest, payload})
		b.total.add(1, int64(h.lines), int64(h.length))
		s.unread.add(-1, -int64(h.lines), -int64(h.length))
	}
}

// Done acknowledges a batch: it will not be given out again. Batches may be done in
// any order; what is written down is the end of those that are done without a gap,
// and segments before it are deleted. After an error the batch is done in memory,
// and the next call that writes makes up for it.
func (l *Log) Done(b *Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.errClosed()
	}
	b.done = true
	for len(l.pending) > 0 && l.pending[0].done {
		l.pending = slices.Delete(l.pending, 0, 1)
	}
	return wrap(errors.Join(l.savePosition(), l.trim(restBytes)))
}

// acked is the end of what is acknowledged.
func (l *Log) acked() place {
	if len(l.pending) > 0 {
		return l.pending[0].start
	}
	return l.read
}

// trim deletes segments that are wholly acknowledged, the active one only if it has
// at least so many bytes.
func (l *Log) trim(least int64) error {
	for len(l.segments) > 0 {
		s := l.segments[0]
		if l.acked().compare(s.end()) < 0 || s == l.active && s.size < least {
			return nil
		}
		if err := l.remove(s); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) remove(s *segment) error {
	path := l.path(s.number)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if l.active == s {
		l.active = nil
	}
	l.segments = slices.DeleteFunc(l.segments, func(other *segment) bool { return other == s })
	delete(l.unsynced, path)
	l.unsynced[l.dir] = true
	return nil
}

// DropOldest deletes the oldest segment that has no frame in a batch that is not
// done. It returns how many lines Next had not given out of it, and how long it
// was: 0, 0 and no error if there is no such segment. If bytes is not 0, the segment
// is gone in spite of an error.
func (l *Log) DropOldest() (lines, bytes int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, 0, l.errClosed()
	}
	i := slices.IndexFunc(l.segments, func(s *segment) bool {
		return !slices.ContainsFunc(l.pending, func(b *Batch) bool {
			return !b.done && b.first <= s.number && s.number <= b.last
		})
	})
	if i < 0 {
		return 0, 0, nil
	}
	s := l.segments[i]
	if err := l.remove(s); err != nil {
		return 0, 0, wrap(err)
	}
	return s.unread.lines, s.size, wrap(l.savePosition())
}
