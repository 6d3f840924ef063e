package breaker

import (
	"maps"
	"time"
)

// What the tests of the wire and of the script need of the inside.

// WireRecord is a remoteRecord for the eyes of a test.
type WireRecord struct {
	Epoch         string
	Before, Group uint64
	Key           Key
	State         State
	Version       uint64
	ClosedAt      uint64
	Remaining     time.Duration
	Trips, Good   int
	Forced        Forced
	ForcedFor     time.Duration
	Failures      int
	Origin        string
	Reason        Reason
	OrderReason   string
}

func (r remoteRecord) wire() WireRecord {
	return WireRecord{
		Epoch: r.epoch, Before: r.before, Group: r.group, Key: r.key, State: r.state, Version: r.version, ClosedAt: r.closedAt,
		Remaining: r.remaining, Trips: r.trips, Good: r.good, Forced: r.forced, ForcedFor: r.forcedFor, Failures: r.failures,
		Origin: r.origin, Reason: r.reason, OrderReason: r.orderReason,
	}
}

// WireSnapshot is a snapshot for the eyes of a test.
type WireSnapshot struct {
	Epoch   string
	Version uint64
	Records map[Key]WireRecord
}

func wired(r remoteRecord, err error) (WireRecord, error) { return r.wire(), err }

// WireReadRecord is parseRecord.
func WireReadRecord(line string) (WireRecord, error) { return wired(parseRecord(line)) }

// WireReadClosing is parseClosing.
func WireReadClosing(line string) (WireRecord, error) { return wired(parseClosing(line)) }

// WireReadSnapshot is parseSnapshot.
func WireReadSnapshot(lines []string) (WireSnapshot, error) {
	s, err := parseSnapshot(lines)
	w := WireSnapshot{Epoch: s.epoch, Version: s.version, Records: map[Key]WireRecord{}}
	for key, r := range maps.All(s.records) {
		w.Records[key] = r.wire()
	}
	return w, err
}

// More of wire.go and link.go.
var (
	WireReadID    = parseID
	WireWriteID   = circuitID
	WireReadReply = parseReply
	WireMillis    = millis
	WireOrderWord = orderWord
)

// WireMaxMillis is the longest time that the wire carries.
const WireMaxMillis = maxMillis

// WireKeys returns the keys that the script is called with.
func (l *RedisLink) WireKeys(id string) []string { return l.keys(id) }

// WireChannel returns where changes are published.
func (l *RedisLink) WireChannel() string { return l.channel() }

// WireOpenPeriod is openPeriod.
func (s Settings) WireOpenPeriod(trip int, random float64) time.Duration {
	return s.openPeriod(trip, random)
}

// WireLapse is the order that lifts an order whose time is over.
const WireLapse = orderLapse
