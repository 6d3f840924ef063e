package loki

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxQuarantine bounds the file of lines that Loki can't take.
const maxQuarantine = 10 << 20

// quarantine keeps lines that Loki can't take where an operator can look at them:
// in the file quarantine.jsonl of the buffer's folder.
type quarantine struct {
	mu  sync.Mutex
	dir string
}

// quarantined is a line of the file.
type quarantined struct {
	Time   time.Time `json:"ts"`
	Tenant string    `json:"tenant,omitempty"`
	Labels string    `json:"labels"`
	Why    string    `json:"why"`
	Line   string    `json:"line"`
}

// keep appends an entry. When the file is full it does nothing.
func (q *quarantine) keep(tenant, labels string, entry []byte, why string) error {
	ns, line := readEntry(entry)
	content, err := json.Marshal(quarantined{time.Unix(0, ns).UTC(), tenant, labels, why, string(line)})
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(q.dir, "quarantine.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size()+int64(len(content)) > maxQuarantine {
		return err
	}
	_, err = f.Write(append(content, '\n'))
	return err
}

// readEntry returns the time, in unix nanoseconds, and the line of an entry that
// [appendEntry] made.
func readEntry(entry []byte) (ns int64, line []byte) {
	message, _, _ := cutBytes(entry[1:])
	for len(message) > 0 {
		tag := message[0]
		var part []byte
		if part, message, _ = cutBytes(message[1:]); tag == tagLine {
			return ns, part
		}
		if tag != tagTimestamp {
			break
		}
		for len(part) > 0 {
			unit := int64(1)
			if part[0] == tagSeconds {
				unit = 1e9
			}
			var n uint64
			n, part, _ = cutUvarint(part[1:])
			ns += int64(n) * unit
		}
	}
	return ns, nil
}
