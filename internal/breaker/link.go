package breaker

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Link is the way to the arbiter that all replicas share. It holds no state of
// circuits. Every call ends with its context.
type Link interface {
	// Run sends commands in one go and returns a reply or an error for each. A
	// command whose error says nothing of it may have been obeyed.
	Run(ctx context.Context, commands []Command) ([]Reply, []error)

	// Version returns the arbiter's epoch and version, "" and 0 if it has no data.
	Version(ctx context.Context) (epoch string, version uint64, err error)

	// Listen calls message for every change that is published, and subscribed each
	// time that messages from before may have been missed. It returns when the
	// context ends.
	Listen(ctx context.Context, message func(string), subscribed func())

	// Close gives the connections up.
	Close() error
}

//go:embed script.lua
var scriptText string

var script = redis.NewScript(scriptText)

// RedisLink keeps circuits in Redis 6.2 or newer, or what speaks its language.
type RedisLink struct {
	client redis.UniversalClient
	prefix string
}

// NewRedisLink returns a link that connects when it is used and closes the
// client in the end. Every key and channel begins with the namespace; the hash
// tag puts all keys into one slot of a cluster, as a script needs it. The client
// must not retry by itself, and must heed the deadlines of contexts.
func NewRedisLink(client redis.UniversalClient, namespace string) *RedisLink {
	return &RedisLink{client: client, prefix: namespace + ":{breaker}:"}
}

func (l *RedisLink) channel() string { return l.prefix + "changes" }

func (l *RedisLink) keys(id string) []string {
	return []string{
		l.prefix + "states", l.prefix + "meta",
		l.prefix + "failures:" + id, l.prefix + "probes:" + id, l.prefix + "reporters:" + id, l.prefix + "tallies:" + id,
	}
}

func (l *RedisLink) args(c Command) []any {
	return append([]any{c.Op, c.ID, l.channel(), c.Replica, c.Seen, c.Epoch}, c.Args...)
}

// Run implements [Link]. A server that has lost its scripts gets ours again.
func (l *RedisLink) Run(ctx context.Context, commands []Command) ([]Reply, []error) {
	replies, errs := make([]Reply, len(commands)), make([]error, len(commands))
	var missing []int
	l.pipeline(ctx, func(p redis.Pipeliner) (calls []*redis.Cmd) {
		for _, c := range commands {
			calls = append(calls, script.EvalSha(ctx, p, l.keys(c.ID), l.args(c)...))
		}
		return calls
	}, func(i int, r Reply, err error) {
		replies[i], errs[i] = r, err
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			missing = append(missing, i)
		}
	})
	if len(missing) > 0 {
		l.pipeline(ctx, func(p redis.Pipeliner) (calls []*redis.Cmd) {
			for _, i := range missing {
				calls = append(calls, script.Eval(ctx, p, l.keys(commands[i].ID), l.args(commands[i])...))
			}
			return calls
		}, func(i int, r Reply, err error) { replies[missing[i]], errs[missing[i]] = r, err })
	}
	return replies, errs
}

// pipeline sends the calls and tells the outcome of each.
func (l *RedisLink) pipeline(ctx context.Context, queue func(redis.Pipeliner) []*redis.Cmd, done func(int, Reply, error)) {
	p := l.client.Pipeline()
	calls := queue(p)
	_, execErr := p.Exec(ctx)
	for i, call := range calls {
		values, err := call.Slice()
		if err == nil && execErr != nil && len(values) == 0 { // nothing was sent
			err = execErr
		}
		if err != nil {
			done(i, Reply{}, err)
			continue
		}
		r, err := parseReply(values)
		done(i, r, err)
	}
}

func parseReply(values []any) (r Reply, err error) {
	text := make([]string, 0, len(values))
	for _, v := range values {
		s, ok := v.(string)
		if !ok {
			return r, fmt.Errorf("%w: the script answered a %T", errWire, v)
		}
		text = append(text, s)
	}
	if len(text) < 3 {
		return r, fmt.Errorf("%w: the script answered %q", errWire, text)
	}
	wait, err := strconv.ParseInt(text[1], 10, 64)
	if err != nil || wait < -1 || wait > maxMillis {
		return r, fmt.Errorf("%w: the script answered %q", errWire, text[1])
	}
	return Reply{Verdict: text[0], Wait: time.Duration(wait) * time.Millisecond, Lines: text[2:]}, nil
}

// Version implements [Link].
func (l *RedisLink) Version(ctx context.Context) (epoch string, version uint64, err error) {
	values, err := l.client.HMGet(ctx, l.prefix+"meta", "epoch", "version").Result()
	if err != nil {
		return "", 0, err
	}
	epoch, _ = values[0].(string)
	if text, ok := values[1].(string); ok {
		if version, err = strconv.ParseUint(text, 10, 64); err != nil {
			return "", 0, fmt.Errorf("%w: version %q", errWire, text)
		}
	}
	return epoch, version, nil
}

// The client looks at a silent subscription every so often, and waits this long
// before it makes a new one.
const (
	subscriptionCheck = time.Second
	subscriptionQueue = 1024
)

// Listen implements [Link]. The client subscribes again by itself when the
// connection was lost, and reports it.
func (l *RedisLink) Listen(ctx context.Context, message func(string), subscribed func()) {
	subscription := l.client.Subscribe(ctx, l.channel())
	defer func() { _ = subscription.Close() }() // nobody is left to tell
	events := subscription.ChannelWithSubscriptions(
		redis.WithChannelSize(subscriptionQueue), redis.WithChannelHealthCheckInterval(subscriptionCheck))
	for {
		select {
		case <-ctx.Done():
			return
		case event, ok := <-events:
			if !ok {
				return
			}
			switch e := event.(type) {
			case *redis.Message:
				message(e.Payload)
			case *redis.Subscription:
				subscribed()
			}
		}
	}
}

// Close implements [Link].
func (l *RedisLink) Close() error { return l.client.Close() }

// refuses reports whether the arbiter is there but does no work: it is a
// read-only replica, loading, out of memory, split, or wants other credentials.
func refuses(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && !errors.Is(err, redis.Nil) && !strings.HasPrefix(err.Error(), "NOSCRIPT")
}

// causeOf returns the text of an error without what a server says of a call's
// arguments: those of AUTH and HELLO are credentials.
func causeOf(err error) string {
	text, _, _ := strings.Cut(err.Error(), ", with args beginning with")
	return text
}

var _ Link = (*RedisLink)(nil)
