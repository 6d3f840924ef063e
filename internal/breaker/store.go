package breaker

import (
	"context"
	"errors"
	"time"
)

// ErrUnknown is returned for a circuit that nobody watches.
var ErrUnknown = errors.New("no such circuit")

// Store is the arbiter of circuits: it alone opens and closes them and grants
// probes. Requests act on what it pushed last; nothing but Acquire is on a
// request's way, and that only when the circuit isn't closed.
//
// Calls are safe to repeat: a report is known by its event, a probe by its token.
// A store with a remote arbiter answers Report, Count and Result at once and
// pushes the new state when it has it.
type Store interface {
	// Watch calls push with the circuit's present state before it returns, then
	// once after every change, in order, until stop is called. push may be called
	// from any goroutine and must not call the store; one that was under way when
	// Watch was called may come late: its Seq tells. If a call below causes a
	// change, push has been told before that call returns, as far as the change
	// is decided in this process.
	Watch(key Key, push func(Record)) (stop func())

	// Report tells of a failed request that was admitted in the closed state. It
	// does not block.
	Report(key Key, report Report, settings Settings)

	// Count tells how many requests went well since the last call. It is used with
	// [Settings.MinRatio] only. It does not block.
	Count(key Key, successes int64, settings Settings)

	// Acquire asks for a probe's lease under a token of the caller's choice.
	// It may take a few milliseconds and never fails: a store that cannot answer
	// in time denies.
	Acquire(ctx context.Context, key Key, token uint64, settings Settings) Grant

	// Result tells how a probe went; Ignored gives the lease back without a
	// verdict. A token that is unknown or has run out changes nothing. It does
	// not block.
	Result(key Key, token uint64, outcome Outcome, settings Settings)

	// Order obeys an operator. It returns ErrUnknown for a circuit that nobody watches.
	Order(ctx context.Context, key Key, order Order) error

	// Records returns the records of all circuits, in no order.
	Records() []Record
}

// Report is one failure.
type Report struct {
	// Event identifies the failure: the same event twice counts once. Numbers
	// are unique in this process; a shared store adds the replica's name.
	Event uint64
	// Age is how long ago it happened, for reports that had to wait.
	Age time.Duration
	// Admitted is the Seq of the view that admitted the request.
	Admitted uint64
}

// Grant is the answer to a probe's request.
type Grant struct {
	// Probe: the lease is granted.
	Probe bool
	// Token is that of the lease, if it isn't the caller's: one that came too late
	// for an earlier request.
	Token uint64
	// Closed: the circuit is closed by now, the request needs no lease.
	Closed bool
	// Seq is that of the closed circuit's record, which admits the request.
	Seq uint64
	// State is the circuit's at the time of the answer.
	State State
	// RetryAfter is when to ask again, if neither.
	RetryAfter time.Duration
}

// Order is what an operator wants of a circuit.
type Order struct {
	Kind OrderKind
	// TTL is how long OrderOpen and OrderClose hold before the circuit is left to
	// itself again, 0 for ever.
	TTL time.Duration
	// Reason is why, for OrderOpen and OrderClose, in the operator's words. Its first
	// 100 characters are kept with the order.
	Reason string
}

// OrderKind is what an operator may do to a circuit.
type OrderKind uint8

// The orders. OrderAuto lifts a forced state; OrderReset also forgets failures
// and closes an open circuit. Either way the circuit is closed afterwards.
const (
	OrderOpen OrderKind = iota + 1
	OrderClose
	OrderAuto
	OrderReset
	orderLapse // lifts an order whose time is over
)
