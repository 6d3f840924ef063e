package app

import (
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/redisclient"
)

// news tells gateways through Redis that the permission table changed, so that
// they need not wait for their next poll. No request waits for it or fails by it.
type news struct {
	client    redis.UniversalClient
	publisher *permission.Publisher
}

// newNews follows the commits of db. It returns nil if no Redis is set.
func newNews(c *Config, db *database.DB, log *zap.Logger) (*news, error) {
	if c.RedisURL == "" {
		return nil, nil
	}
	options, err := redisclient.Parse(c.RedisURL.Reveal())
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL: %w", err)
	}
	client, err := options.Open()
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL: %w", err)
	}
	lines := slog.New(zapslog.NewHandler(log.With(zap.Stringer("redis", options)).Core()))
	n := &news{client, permission.NewPublisher(client, c.Namespace, lines)}
	db.OnAnnounce(func(channel string) {
		if channel == permission.Channel {
			n.publisher.Publish()
		}
	})
	return n, nil
}

// close tells what is left to tell, within a second.
func (n *news) close() error {
	if n == nil {
		return nil
	}
	n.publisher.Close()
	return n.client.Close()
}
