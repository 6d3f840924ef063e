package segment

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Open opens the log in a folder, which it makes if it is not there, and checks all
// that is in it. Nobody else may have it open. The error names the file.
func Open(dir string, o Options) (*Log, error) {
	l := &Log{dir: dir, segmentBytes: cmp.Or(o.SegmentBytes, DefaultSegmentBytes), changed: make(chan struct{}, 1), unsynced: make(map[string]bool)}
	if err := l.open(); err != nil {
		return nil, wrap(err)
	}
	return l, nil
}

func (l *Log) open() error {
	if err := l.makeDir(); err != nil {
		return err
	}
	if err := l.list(); err != nil {
		return err
	}
	p, found, err := readPosition(l.positionPath())
	if err != nil {
		return err
	}
	if !found && len(l.segments) > 0 {
		p.issued.segment = l.last + 1
	}
	l.written, l.read, l.last = p, p.acked, max(l.last, p.acked.segment, p.issued.segment)
	var buffer []byte
	for _, s := range slices.Clone(l.segments) {
		if buffer, err = l.check(s, buffer); err != nil {
			return err
		}
		if s.unread.frames == 0 {
			if err := l.remove(s); err != nil {
				return err
			}
		}
	}
	// Both slots get their blocks now, so that a full disk can't stop them later.
	for range 2 {
		if err := l.savePosition(); err != nil {
			return err
		}
	}
	return nil
}

// list finds the segments.
func (l *Log) list() error {
	entries, err := os.ReadDir(l.dir) // sorted: names have one length
	if err != nil {
		return err
	}
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), ".log")
		number, err := strconv.ParseUint(digits, 16, 62)
		if !ok || err != nil || e.Name() != segmentName(number) {
			continue
		}
		l.last = number
		if e.Type().IsRegular() {
			l.segments = append(l.segments, &segment{number: number})
		}
	}
	return nil
}

// check reads a segment that an earlier process wrote, from the acknowledged
// place on, and counts what is in it. It returns its buffer for the next one.
func (l *Log) check(s *segment, buffer []byte) ([]byte, error) {
	path := l.path(s.number)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s.size = info.Size()
	sc := scanner{file: f, at: place{segment: s.number}, end: s.size, ahead: scanBytes, reuse: true, buffer: buffer}
	if s.number < l.read.segment {
		sc.at.offset = s.size
	} else if s.number == l.read.segment {
		sc.at.offset = min(l.read.offset, s.size)
	}
	good := sc.at.offset // the end of the last good frame
	for {
		h, ok, err := sc.header()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if !ok {
			break
		}
		at := sc.at
		_, ok, err = sc.payload(h)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if !ok {
			continue
		}
		if at.compare(l.written.issued) < 0 {
			l.resent += int64(h.lines)
		}
		if s.unread.frames == 0 {
			s.oldest = h.oldest
		}
		s.unread.add(1, int64(h.lines), int64(h.length))
		good, s.damaged = sc.at.offset, sc.damaged
	}
	if s.number == l.segments[len(l.segments)-1].number {
		l.torn = s.size - good
		if err := cutFile(path, s, good); err != nil {
			return nil, err
		}
	} else {
		s.damaged = sc.damaged
	}
	l.corrupt += s.damaged
	return sc.buffer, nil
}

func cutFile(path string, s *segment, size int64) error {
	if s.size == size {
		return nil
	}
	s.size = size
	return os.Truncate(path, size)
}
