package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
)

const (
	// DefaultSegmentBytes is [Options].SegmentBytes if it is zero.
	DefaultSegmentBytes = 8 << 20
	// scanBytes is how much is read at a time when a log is opened.
	scanBytes = 512 << 10
	// restBytes is what a log may take on disk with nothing in it: a smaller file is
	// not worth a new one.
	restBytes = 64 << 10
)

// Options of a log.
type Options struct {
	// SegmentBytes is how long a segment may become; zero means
	// [DefaultSegmentBytes]. Only one that holds a single frame is longer.
	SegmentBytes int64
}

// Log is a log of frames in a folder. Append is for one goroutine and Next for one
// other, all other methods for any.
type Log struct {
	dir          string
	segmentBytes int64
	changed      chan struct{}
	syncing      sync.Mutex // one Sync at a time

	mu       sync.Mutex
	closed   bool
	segments []*segment // by number
	active   *segment   // the last one, if Append may go on with it
	last     uint64     // the highest number that was used
	read     place      // where Next goes on
	pending  []*Batch   // given out; the first one is not done
	prepared *Batch     // the last of pending, if its position could not be written
	written  position   // what the position file says
	buffer   []byte     // of Append

	unsynced map[string]bool // paths of what was changed since the last Sync

	resent, lost, corrupt, torn int64
}

// segment is one file.
type segment struct {
	number uint64
	size   int64
	unread count // frames that Next has not reached
	oldest int64 // of the first of them
	// damaged are bytes that Open has counted and Next will skip.
	damaged int64
}

func (s *segment) end() place { return place{s.number, s.size} }

type count struct{ frames, lines, bytes int64 }

func (c *count) add(n, lines, bytes int64) {
	c.frames, c.lines, c.bytes = c.frames+n, c.lines+lines, c.bytes+bytes
}

// Stats is what a log holds, and what befell it.
type Stats struct {
	// Lines wait on disk: they are not acknowledged. UnreadLines of them, with
	// payloads of UnreadBytes, were not given out by Next yet.
	Lines, UnreadLines, UnreadBytes int64
	// Bytes is how long the segments are, acknowledged frames included.
	Bytes int64
	// Oldest is Frame.Oldest of the first frame that waits; zero if none does.
	Oldest int64
	// Resent lines were given out by an earlier process and not acknowledged. They
	// will be given out again and may be delivered twice.
	Resent int64
	// Lost lines were damaged or deleted by somebody else while the log was open.
	Lost int64
	// Corrupt is how many damaged bytes were skipped. Torn is how many Open cut off
	// the end of the last segment: an Append that did not come to its end.
	Corrupt, Torn int64
}

// Append writes a frame with one write(2). After an error the log is as it was
// before. The payload is not kept.
func (l *Log) Append(f Frame) error {
	if len(f.Payload) > MaxPayload || f.Lines < 0 || f.Lines > math.MaxInt32 {
		return fmt.Errorf("segment log: a frame of %d lines and %d bytes: at most %d bytes", f.Lines, len(f.Payload), MaxPayload)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.errClosed()
	}
	if err := l.append(f); err != nil {
		return wrap(err)
	}
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return nil
}

func (l *Log) append(f Frame) error {
	size := headerSize + int64(len(f.Payload))
	if l.active != nil && l.active.size+size > l.segmentBytes {
		l.active = nil
	}
	if l.active != nil {
		err := l.write(l.active, f, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// It was deleted by somebody. Next will find out what is lost.
	}
	l.last++
	s := &segment{number: l.last}
	err := l.write(s, f, os.O_CREATE|os.O_EXCL)
	if errors.Is(err, fs.ErrNotExist) {
		if err = l.makeDir(); err == nil {
			err = l.write(s, f, os.O_CREATE|os.O_EXCL)
		}
	}
	if err != nil {
		return err
	}
	l.segments, l.active = append(l.segments, s), s
	l.unsynced[l.dir] = true
	return nil
}

// write puts a frame at the end of a segment. What was written when it failed is cut
// off as far as possible; the next write goes to the same place in any case.
func (l *Log) write(s *segment, f Frame, flags int) error {
	path := l.path(s.number)
	file, err := os.OpenFile(path, os.O_WRONLY|flags, 0o600)
	if err != nil {
		return err
	}
	l.buffer = appendFrame(l.buffer[:0], f, s.end())
	_, err = file.WriteAt(l.buffer, s.size)
	if err = errors.Join(err, file.Close()); err != nil {
		// Either can fail on a broken disk only.
		if s.size == 0 {
			_ = os.Remove(path)
		} else {
			_ = os.Truncate(path, s.size)
		}
		return err
	}
	if s.unread.frames == 0 {
		s.oldest = f.Oldest
	}
	s.unread.add(1, int64(f.Lines), int64(len(f.Payload)))
	s.size += int64(len(l.buffer))
	l.unsynced[path] = true
	if cap(l.buffer) > 1<<20 {
		l.buffer = nil
	}
	return nil
}

// savePosition writes the position if it has changed.
func (l *Log) savePosition() error {
	p := position{l.written.sequence + 1, l.acked(), l.written.issued}
	if l.read.compare(p.issued) > 0 {
		p.issued = l.read
	}
	err := writePosition(l.positionPath(), p)
	if errors.Is(err, fs.ErrNotExist) {
		if err = l.makeDir(); err == nil {
			err = writePosition(l.positionPath(), p)
		}
	}
	if err == nil {
		l.written, l.unsynced[l.positionPath()] = p, true
	}
	return err
}

// Sync forces to the disk what was written since the last one. Other methods go on
// meanwhile.
func (l *Log) Sync() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return l.errClosed()
	}
	paths := l.unsynced
	l.unsynced = make(map[string]bool)
	l.mu.Unlock()

	var failed error
	for path := range paths {
		if err := syncFile(path); err != nil {
			failed = err
			l.mu.Lock()
			l.unsynced[path] = true
			l.mu.Unlock()
		}
	}
	return wrap(failed)
}

// syncFile forces a file or a folder to the disk, whoever wrote it. One that is
// gone needs it no more.
func syncFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Stats returns what the log holds now.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := Stats{Resent: l.resent, Lost: l.lost, Corrupt: l.corrupt, Torn: l.torn}
	waiting := false
	for _, b := range l.pending {
		if !b.done {
			st.Lines += b.total.lines
			if !waiting {
				waiting, st.Oldest = true, b.Frames[0].Oldest
			}
		}
	}
	for _, s := range l.segments {
		st.Bytes += s.size
		st.UnreadLines += s.unread.lines
		st.UnreadBytes += s.unread.bytes
		if !waiting && s.unread.frames > 0 {
			waiting, st.Oldest = true, s.oldest
		}
	}
	st.Lines += st.UnreadLines
	return st
}

// Changed has a value when something was appended since it last had one.
func (l *Log) Changed() <-chan struct{} { return l.changed }

// Close ends the use of the log: all methods but Stats and Changed fail from now on.
// Batches that are not done are given out again after the next Open. It does not
// Sync.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return wrap(errors.Join(l.savePosition(), l.trim(0)))
}

func (l *Log) makeDir() error {
	l.unsynced[filepath.Dir(l.dir)] = true
	return os.MkdirAll(l.dir, 0o700)
}

func (l *Log) positionPath() string { return filepath.Join(l.dir, positionName) }

func (l *Log) path(number uint64) string { return filepath.Join(l.dir, segmentName(number)) }

func segmentName(number uint64) string { return fmt.Sprintf("%016x.log", number) }

func (l *Log) errClosed() error { return fmt.Errorf("segment log: %s: %w", l.dir, fs.ErrClosed) }

// wrap says whose error it is; nil stays nil.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("segment log: %w", err)
}
