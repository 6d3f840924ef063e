package breaker_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// simNamespace is what all keys begin with.
const (
	simNamespace = "sim"
	simPrefix    = simNamespace + ":{breaker}:"
)

// simValue is what one key holds, a hash or a sorted set.
type simValue struct {
	hash map[string]string
	zset map[string]float64
	ttl  time.Duration // 0: it stays
}

// simData is all that the arbiter holds.
type simData map[string]simValue

// simServer is Redis with a clock that the test sets and a memory that it sees.
type simServer interface {
	setTime(now time.Time)
	dump() simData
	load(data simData)
	forgetScripts()
	// published returns what was published since the last call.
	published() []string
}

// simArbiter runs the real script through the real link. What it does happens on
// one goroutine outside of the bubble in which the replicas live: to them it
// takes no time at all.
type simArbiter struct {
	simServer
	link  *breaker.RedisLink
	tasks chan func()
	done  chan struct{}
}

func newSimArbiter(t *testing.T, client *redis.Client, s simServer) *simArbiter {
	t.Helper()
	a := &simArbiter{simServer: s, link: breaker.NewRedisLink(client, simNamespace), tasks: make(chan func()), done: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for task := range a.tasks {
			task()
			a.done <- struct{}{}
		}
	}()
	t.Cleanup(func() {
		close(a.tasks)
		<-ended
		require.NoError(t, a.link.Close())
	})
	return a
}

// do runs f outside of the bubble.
func (a *simArbiter) do(f func()) {
	a.tasks <- f
	<-a.done
}

// run executes a command at a point in time of Redis's own clock. It returns
// what was published and what Redis holds afterwards.
func (a *simArbiter) run(at time.Time, c breaker.Command) (reply breaker.Reply, messages []string, data simData, err error) {
	a.do(func() {
		a.setTime(at)
		replies, errs := a.link.Run(context.Background(), []breaker.Command{c})
		reply, err = replies[0], errs[0]
		messages, data = a.published(), a.dump()
	})
	return reply, messages, data, err
}

// simEdit is a change to the script.
type simEdit struct{ from, to string }

func (e simEdit) apply(t testing.TB, script string) string {
	t.Helper()
	require.Equal(t, 1, strings.Count(script, e.from), "the script must have this once: %s", e.from)
	return strings.Replace(script, e.from, e.to, 1)
}

// simScript has a client send another script in the place of the real one.
type simScript struct{ text string }

func (s simScript) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (s simScript) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (s simScript) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	sum := sha1.Sum([]byte(s.text))
	return func(ctx context.Context, commands []redis.Cmder) error {
		for _, c := range commands {
			switch c.Name() {
			case "evalsha":
				c.Args()[1] = hex.EncodeToString(sum[:])
			case "eval":
				c.Args()[1] = s.text
			}
		}
		return next(ctx, commands)
	}
}

// simClient returns a client that runs the script with these edits.
func simClient(t testing.TB, address string, edits ...simEdit) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, PoolSize: 2})
	script := breaker.ScriptText()
	for _, e := range edits {
		script = e.apply(t, script)
	}
	if len(edits) > 0 {
		client.AddHook(simScript{script})
	}
	return client
}

// simMini is miniredis.
type simMini struct {
	*miniredis.Miniredis
	mu       sync.Mutex
	messages []string
}

// newSimMini returns an arbiter on miniredis, whose script has these edits.
func newSimMini(t *testing.T, edits ...simEdit) *simArbiter {
	t.Helper()
	s := &simMini{Miniredis: miniredis.RunT(t)}
	s.ClockTTL(true)
	s.Server().SetPreHook(func(p *server.Peer, command string, args ...string) bool {
		if command != "PUBLISH" {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.messages = append(s.messages, args[1])
		p.WriteInt(3)
		return true
	})
	return newSimArbiter(t, simClient(t, s.Addr(), append(edits, simMutation(t)...)...), s)
}

func (s *simMini) setTime(now time.Time) { s.SetTime(now) }

func (s *simMini) dump() simData {
	data := simData{}
	for _, key := range s.Keys() {
		v := simValue{ttl: s.TTL(key)}
		if s.Type(key) == "zset" {
			live, _ := s.SortedSet(key)
			v.zset = maps.Clone(live)
		} else {
			v.hash = map[string]string{}
			fields, _ := s.HKeys(key)
			for _, f := range fields {
				v.hash[f] = s.HGet(key, f)
			}
		}
		data[key] = v
	}
	return data
}

func (s *simMini) load(data simData) {
	s.FlushAll()
	for key, v := range data {
		for f, text := range v.hash {
			s.HSet(key, f, text)
		}
		for m, score := range v.zset {
			_, _ = s.ZAdd(key, score, m)
		}
		if v.ttl > 0 {
			s.SetTTL(key, v.ttl)
		}
	}
}

func (s *simMini) forgetScripts() {
	c := redis.NewClient(&redis.Options{Addr: s.Addr()})
	must(c.ScriptFlush(context.Background()).Result())
	must(0, c.Close())
}

func (s *simMini) published() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	messages := s.messages
	s.messages = nil
	return messages
}

// simReal is a real redis-server. The time cannot be set there, so the script
// reads a list in the place of TIME, and lifetimes are cut when time passes.
type simReal struct {
	client       *redis.Client
	subscription *redis.PubSub
	now          time.Time
	marks        int
}

const (
	simClock = "sim:clock"
	// simSetTime shortens lifetimes by what has passed.
	simSetTime = `redis.call('DEL', KEYS[1])
redis.call('RPUSH', KEYS[1], ARGV[1], ARGV[2])
for _, key in ipairs(redis.call('KEYS', '*')) do
	local left = redis.call('PTTL', key)
	if left >= 0 then
		if left <= tonumber(ARGV[3]) then redis.call('DEL', key) else redis.call('PEXPIRE', key, left - tonumber(ARGV[3])) end
	end
end`
	simDump = `local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
	local kind = redis.call('TYPE', key).ok
	if kind == 'hash' then all[#all + 1] = { key, kind, tostring(redis.call('PTTL', key)), redis.call('HGETALL', key) } end
	if kind == 'zset' then all[#all + 1] = { key, kind, tostring(redis.call('PTTL', key)), redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') } end
end
return all`
)

// newSimReal returns an arbiter on redis-server.
func newSimReal(t *testing.T, edits ...simEdit) *simArbiter {
	t.Helper()
	address := redistest.Start(t).Addr()
	s := &simReal{client: redis.NewClient(&redis.Options{Addr: address})}
	s.subscription = s.client.Subscribe(t.Context(), simPrefix+"changes")
	_, err := s.subscription.Receive(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.subscription.Close())
		require.NoError(t, s.client.Close())
	})
	clock := simEdit{"redis.call('TIME')", "redis.call('LRANGE', '" + simClock + "', 0, -1)"}
	return newSimArbiter(t, simClient(t, address, append(append(edits, clock), simMutation(t)...)...), s)
}

// must ends the test's process: there is no test to fail on this goroutine.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (s *simReal) setTime(now time.Time) {
	passed := now.Sub(s.now)
	if s.now.IsZero() {
		passed = 0
	}
	s.now = now
	micros := now.UnixMicro()
	_, err := s.client.Eval(context.Background(), simSetTime, []string{simClock}, micros/1e6, micros%1e6, passed.Milliseconds()).Result()
	if err != nil && err != redis.Nil { //nolint:errorlint // Nil is returned as it is
		panic(err)
	}
}

func (s *simReal) dump() simData {
	data := simData{}
	for _, line := range must(s.client.Eval(context.Background(), simDump, nil).Slice()) {
		f := line.([]any)
		v := simValue{}
		if left := must(strconv.Atoi(f[2].(string))); left >= 0 {
			v.ttl = time.Duration(left)*time.Millisecond + 1 // 0 ms left is not for ever
		}
		pairs := f[3].([]any)
		if f[1] == "hash" {
			v.hash = map[string]string{}
		} else {
			v.zset = map[string]float64{}
		}
		for i := 0; i < len(pairs); i += 2 {
			if v.hash != nil {
				v.hash[pairs[i].(string)] = pairs[i+1].(string)
			} else {
				v.zset[pairs[i].(string)] = must(strconv.ParseFloat(pairs[i+1].(string), 64))
			}
		}
		data[f[0].(string)] = v
	}
	return data
}

func (s *simReal) load(data simData) {
	ctx := context.Background()
	must(s.client.FlushAll(ctx).Result())
	for key, v := range data {
		if len(v.hash) > 0 {
			must(s.client.HSet(ctx, key, v.hash).Result())
		}
		for member, score := range v.zset {
			must(s.client.ZAdd(ctx, key, redis.Z{Score: score, Member: member}).Result())
		}
		if v.ttl > 0 {
			must(s.client.PExpire(ctx, key, v.ttl).Result())
		}
	}
}

func (s *simReal) forgetScripts() { must(s.client.ScriptFlush(context.Background()).Result()) }

// published reads the subscription up to a mark of its own.
func (s *simReal) published() (messages []string) {
	ctx := context.Background()
	s.marks++
	mark := fmt.Sprintf("mark %d", s.marks)
	must(s.client.Publish(ctx, simPrefix+"changes", mark).Result())
	for {
		m := must(s.subscription.ReceiveMessage(ctx))
		if m.Payload == mark {
			return messages
		}
		if !strings.HasPrefix(m.Payload, "mark ") {
			messages = append(messages, m.Payload)
		}
	}
}

// aged is the data after a time in which nobody was there.
func (d simData) aged(by time.Duration) simData {
	next := simData{}
	for key, v := range d {
		if v.ttl > 0 {
			if v.ttl -= by; v.ttl <= 0 {
				continue
			}
		}
		next[key] = v
	}
	return next
}

func (d simData) String() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(d)) {
		v := d[key]
		fmt.Fprintf(&b, "  %s %v%v ttl %s\n", key, v.hash, v.zset, v.ttl)
	}
	return b.String()
}
