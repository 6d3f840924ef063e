package segment

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
)

const (
	positionName = "position"
	slotSize     = 48
	// slotDistance keeps the two slots in different sectors of any disk.
	slotDistance = 4096
	// maxNumber bounds all numbers of a position, so that none can overflow.
	maxNumber = 1 << 62
)

var slotMagic = []byte("\xffTP1")

// place is where a frame begins, or where one would.
type place struct {
	segment uint64
	offset  int64
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.segment, q.segment), cmp.Compare(p.offset, q.offset))
}

// position is a slot of the position file.
type position struct {
	sequence uint64
	// acked is the end of what is acknowledged, issued of what was given out.
	acked, issued place
}

func (p position) encode() []byte {
	b := append(make([]byte, 0, slotSize), slotMagic...)
	b = append(b, 0, 0, 0, 0)
	for _, n := range []uint64{p.sequence, p.acked.segment, uint64(p.acked.offset), p.issued.segment, uint64(p.issued.offset)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// parseSlot reads one slot; false if it is not good.
func parseSlot(b []byte) (position, bool) {
	if len(b) < slotSize || !bytes.HasPrefix(b, slotMagic) ||
		binary.LittleEndian.Uint32(b[4:]) != crc32.Checksum(b[8:slotSize], castagnoli) {
		return position{}, false
	}
	var n [5]uint64
	for i := range n {
		if n[i] = binary.LittleEndian.Uint64(b[8+8*i:]); n[i] > maxNumber {
			return position{}, false
		}
	}
	return position{n[0], place{n[1], int64(n[2])}, place{n[3], int64(n[4])}}, true
}

// readPosition returns the newest good slot of the file; false if there is none.
func readPosition(path string) (newest position, found bool, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newest, false, nil
	}
	if err != nil {
		return newest, false, err
	}
	if !info.Mode().IsRegular() { // a pipe would block
		return newest, false, fmt.Errorf("%s is not a regular file: delete it", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return newest, false, err
	}
	defer f.Close()
	for slot := range int64(2) {
		b := make([]byte, slotSize)
		n, err := f.ReadAt(b, slot*slotDistance)
		if err != nil && !errors.Is(err, io.EOF) {
			return newest, false, err
		}
		if p, ok := parseSlot(b[:n]); ok && (!found || p.sequence > newest.sequence) {
			newest, found = p, true
		}
	}
	return newest, found, nil
}

// writePosition writes p into the slot of its sequence. A slot that can't be
// written whole is of no use, and the other one stays.
func writePosition(path string, p position) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(p.encode(), int64(p.sequence%2)*slotDistance)
	return err
}
