package redisclient_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/internal/redisclient"
)

func TestMain(m *testing.M) {
	// A pool that could not connect looks once a second whether it can again, and
	// sees only then that it is closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// open returns a client for the URL that is closed with the test.
func open(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	o, err := redisclient.Parse(url)
	require.NoError(t, err)
	client, err := o.Open()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}
