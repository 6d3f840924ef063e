package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
)

// MaxPayload bounds the payload of a frame, in bytes.
const MaxPayload = 16 << 20

const headerSize = 36

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	frameMagic = []byte("\xffTG1")
)

// Frame is what is written and read at a time.
type Frame struct {
	// Lines is how many lines Payload holds. The log only adds them up.
	Lines int
	// Oldest and Newest are the times of the first and the last line, in ns since
	// 1970.
	Oldest, Newest int64
	// Payload is at most [MaxPayload] bytes.
	Payload []byte
}

// header is a frame without its payload.
type header struct {
	length, lines, sum uint32
	oldest, newest     int64
}

// size is how many bytes the frame takes in its segment.
func (h header) size() int64 { return headerSize + int64(h.length) }

// appendFrame appends f as it is written at the place.
func appendFrame(b []byte, f Frame, at place) []byte {
	start := len(b)
	b = append(b, frameMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Payload)))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Lines))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(f.Payload, castagnoli))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Oldest))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Newest))
	b = binary.LittleEndian.AppendUint32(b, headerSum(b[start:], at))
	return append(b, f.Payload...)
}

// parseHeader reads the header at the start of b, which has at least headerSize
// bytes. It is false if there is none that is good at the place.
func parseHeader(b []byte, at place) (header, bool) {
	if !bytes.HasPrefix(b, frameMagic) || binary.LittleEndian.Uint32(b[32:]) != headerSum(b[:32], at) {
		return header{}, false
	}
	h := header{
		length: binary.LittleEndian.Uint32(b[4:]),
		lines:  binary.LittleEndian.Uint32(b[8:]),
		sum:    binary.LittleEndian.Uint32(b[12:]),
		oldest: int64(binary.LittleEndian.Uint64(b[16:])),
		newest: int64(binary.LittleEndian.Uint64(b[24:])),
	}
	return h, h.length <= MaxPayload && h.lines <= math.MaxInt32
}

func headerSum(b []byte, at place) uint32 {
	var seed [16]byte
	binary.LittleEndian.PutUint64(seed[:], at.segment)
	binary.LittleEndian.PutUint64(seed[8:], uint64(at.offset))
	return crc32.Update(crc32.Checksum(seed[:], castagnoli), castagnoli, b)
}

// scanner finds the good frames of one segment, in order.
type scanner struct {
	file io.ReaderAt
	at   place // what is looked at next
	end  int64 // of the segment
	// ahead is how many bytes to read at a time, if there are so many.
	ahead   int64
	window  []byte // what was read, from at on
	damaged int64  // bytes skipped so far
	// reuse says that a payload is not used any more when the next one is read.
	reuse  bool
	buffer []byte
}

// header goes to the next frame whose header is good and whose payload is within
// the segment. It is false at the end.
func (s *scanner) header() (header, bool, error) {
	for s.end-s.at.offset >= headerSize {
		if err := s.fill(headerSize); err != nil {
			return header{}, false, err
		}
		if h, ok := parseHeader(s.window, s.at); ok && h.size() <= s.end-s.at.offset {
			return h, true, nil
		}
		skip := bytes.Index(s.window[1:], frameMagic) + 1
		if skip == 0 {
			skip = len(s.window) - len(frameMagic) + 1
		}
		s.damaged += int64(skip)
		s.advance(int64(skip))
	}
	s.damaged += s.end - s.at.offset
	s.advance(s.end - s.at.offset)
	return header{}, false, nil
}

// payload reads the payload of the frame that header found, and goes to its end.
// It is false if the payload is damaged.
func (s *scanner) payload(h header) ([]byte, bool, error) {
	if err := s.fill(h.size()); err != nil {
		return nil, false, err
	}
	payload := s.window[headerSize:h.size():h.size()]
	s.advance(h.size())
	if crc32.Checksum(payload, castagnoli) != h.sum {
		s.damaged += h.size()
		return nil, false, nil
	}
	return payload, true, nil
}

// fill makes the window at least n bytes long: so many are left in the segment.
func (s *scanner) fill(n int64) error {
	if int64(len(s.window)) >= n {
		return nil
	}
	size := min(max(n, s.ahead), s.end-s.at.offset)
	if !s.reuse || int64(cap(s.buffer)) < size {
		s.buffer = make([]byte, size)
	}
	s.window = s.buffer[:size]
	_, err := s.file.ReadAt(s.window, s.at.offset)
	if err != nil {
		s.window = nil
	}
	return err
}

func (s *scanner) advance(n int64) {
	s.at.offset += n
	s.window = s.window[min(n, int64(len(s.window))):]
}
