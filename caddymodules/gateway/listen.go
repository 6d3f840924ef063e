package gateway

import (
	"context"
	"log/slog"
)

// listen makes the table hear of changes through the Redis of w from now on; a
// nil w, or one without a Redis, ends the listening. It waits for nothing: a
// Redis that is away is the listener's to wait for.
func (s *sharedTable) listen(w *wish) {
	if s.heard.sameRedis(w) {
		return
	}
	if s.deafen != nil {
		s.deafen()
	}
	s.heard, s.deafen = nil, nil
	if w == nil || w.redis == nil {
		return
	}
	client, err := w.redis.Open()
	if err != nil { // its files were readable when the configuration was loaded
		w.logger.Error("redis can't be used: changes of the permission table are found by polling", slog.String("error", err.Error()))
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.heard, s.deafen = w, cancel
	s.running.Go(func() {
		s.ListenRedis(ctx, client, w.namespace)
		_ = client.Close() // nobody waits for an answer
	})
}

// sameRedis reports whether two wishes mean the same channel of the same Redis.
func (w *wish) sameRedis(other *wish) bool {
	none, otherNone := w == nil || w.redis == nil, other == nil || other.redis == nil
	if none || otherNone {
		return none && otherNone
	}
	return w.redis.Key() == other.redis.Key() && w.namespace == other.namespace
}
