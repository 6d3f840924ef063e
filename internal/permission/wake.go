package permission

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// The wait before the database is listened to again doubles from the first
	// to the second, unless it had worked for as long as the second.
	firstRelisten, lastRelisten = 100 * time.Millisecond, 5 * time.Second
	// The client looks at a silent subscription every so often.
	subscriptionCheck = time.Second
	// publishTimeout bounds one message to Redis.
	publishTimeout = time.Second
)

// listen has the database itself tell of changes until ctx ends. While it
// can't, polling finds them.
func (t *Table) listen(ctx context.Context) {
	wait, lost := firstRelisten, false
	for {
		began := t.clock.Now()
		err := t.db.Listen(ctx, Channel, func() {
			lost = false
			t.Refresh()
		})
		if err == nil || ctx.Err() != nil {
			return
		}
		if !lost {
			lost = true
			t.settings.Load().Logger.LogAttrs(ctx, slog.LevelDebug,
				"the database announces no changes of the permission table: they are found by polling", slog.String("error", err.Error()))
		}
		if t.clock.Now().Sub(began) >= lastRelisten {
			wait = firstRelisten
		}
		if !sleep(ctx, wait/2+rand.N(wait)) { //nolint:gosec // how long we wait need not be unguessable
			return
		}
		wait = min(2*wait, lastRelisten)
	}
}

// sleep waits; it returns false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// redisChannel is where changes are announced in Redis.
func redisChannel(namespace string) string { return namespace + ":permissions" }

// ListenRedis calls [Table.Refresh] for everything that a [Publisher] of the
// same namespace announces, and each time when it hears Redis again. It returns
// when ctx ends, whatever Redis does; the client stays open.
func (t *Table) ListenRedis(ctx context.Context, client redis.UniversalClient, namespace string) {
	subscription := client.Subscribe(ctx, redisChannel(namespace))
	events := subscription.ChannelWithSubscriptions(redis.WithChannelHealthCheckInterval(subscriptionCheck))
	for {
		select {
		case <-ctx.Done():
			_ = subscription.Close() // nobody is left to tell
			for range events {       // until the client's goroutine has ended
			}
			return
		case _, ok := <-events:
			if !ok {
				return
			}
			t.Refresh()
		}
	}
}

// Publisher announces changes of the permission table in Redis, so that
// gateways look at once. Nothing depends on it: they also poll. Its methods are
// safe for concurrent use.
type Publisher struct {
	client  redis.UniversalClient
	channel string
	log     *slog.Logger
	wake    chan struct{}
	stop    chan struct{}
	once    sync.Once
	done    chan struct{}
}

// NewPublisher returns a publisher for the gateways with the same namespace.
// The client stays the caller's. The log gets a line when Redis is lost and
// found again; nil means none.
func NewPublisher(client redis.UniversalClient, namespace string, log *slog.Logger) *Publisher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{
		client: client, channel: redisChannel(namespace), log: log,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go p.run()
	return p
}

// Publish announces that something changed. It never waits; what is announced
// while a message is on its way is told by one more.
func (p *Publisher) Publish() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Close sends what was announced, within a second, and ends the publisher.
func (p *Publisher) Close() {
	p.once.Do(func() { close(p.stop) })
	<-p.done
}

func (p *Publisher) run() {
	defer close(p.done)
	lost := false
	for {
		select {
		case <-p.wake:
			lost = p.send(lost)
			continue
		case <-p.stop:
		}
		select {
		case <-p.wake:
			p.send(lost)
		default:
		}
		return
	}
}

// send tells Redis and returns whether it is lost.
func (p *Publisher) send(lost bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	err := p.client.Publish(ctx, p.channel, "").Err()
	switch {
	case err != nil && !lost:
		p.log.LogAttrs(ctx, slog.LevelInfo, "redis takes no announcements of changes of the permission table: gateways find them by polling",
			slog.String("error", err.Error()))
	case err == nil && lost:
		p.log.LogAttrs(ctx, slog.LevelInfo, "redis takes announcements of changes of the permission table again")
	}
	return err != nil
}
