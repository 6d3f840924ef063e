package invitation

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"
)

// cursor is a place in the list, newest first: the last row that was shown.
type cursor struct {
	createdAt int64 // unix milliseconds
	id        string
}

// cursorBytes are 8 of the time, 16 of the id and 4 of the filter's digest.
const cursorBytes = 8 + 16 + 4

// encode returns the opaque text of c for lists with the given filter.
func (c cursor) encode(f filter) string {
	raw := binary.BigEndian.AppendUint64(make([]byte, 0, cursorBytes), uint64(c.createdAt))
	id := uuid.MustParse(c.id)
	raw = append(raw, id[:]...)
	return base64.RawURLEncoding.EncodeToString(append(raw, f.digest()...))
}

// parseCursor returns the place that text names. It is false for anything but
// a cursor that this filter gave out: another filter's would skip rows.
func parseCursor(text string, f filter) (cursor, bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != cursorBytes || base64.RawURLEncoding.EncodeToString(raw) != text {
		return cursor{}, false
	}
	if string(raw[24:]) != string(f.digest()) {
		return cursor{}, false
	}
	createdAt := int64(binary.BigEndian.Uint64(raw))
	return cursor{createdAt: createdAt, id: uuid.UUID(raw[8:24]).String()}, createdAt >= 0
}

// digest tells filters apart.
func (f filter) digest() []byte {
	hash := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%d", f.status, f.emailKey, f.from, f.before))
	return hash[:4]
}
