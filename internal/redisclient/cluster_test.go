package redisclient_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

const slots = 16384

// startCluster starts a cluster of n masters; admin connects to one of them.
func startCluster(t *testing.T, n int, admin func(*redistest.Server) redis.UniversalClient, args ...string) []*redistest.Server {
	t.Helper()
	var nodes []*redistest.Server
	for range n {
		nodes = append(nodes, redistest.Start(t, append([]string{
			"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no", "--cluster-allow-replica-migration", "no",
			"--repl-diskless-sync-delay", "0",
		}, args...)...))
	}
	for i, node := range nodes {
		command(t, admin(node), fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", i*slots/n, (i+1)*slots/n-1))
		command(t, admin(node), fmt.Sprintf("CLUSTER SET-CONFIG-EPOCH %d", i+1))
		host, port, err := net.SplitHostPort(node.Addr())
		require.NoError(t, err)
		command(t, admin(nodes[0]), "CLUSTER MEET "+host+" "+port)
	}
	for _, node := range nodes {
		require.Eventually(t, func() bool {
			info := admin(node).ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_ok:16384")
		}, patience, 50*time.Millisecond)
	}
	return nodes
}

// plainly connects to one node without TLS, as anybody.
func plainly(t *testing.T) func(*redistest.Server) redis.UniversalClient {
	t.Helper()
	clients := map[string]redis.UniversalClient{}
	return func(s *redistest.Server) redis.UniversalClient {
		if clients[s.Addr()] == nil {
			clients[s.Addr()] = open(t, s.URL())
		}
		return clients[s.Addr()]
	}
}

func clusterURL(credentials string, nodes ...*redistest.Server) string {
	var hosts []string
	for _, node := range nodes {
		hosts = append(hosts, node.Addr())
	}
	return "redis+cluster://" + credentials + strings.Join(hosts, ",")
}

// owner returns the node that holds the key.
func owner(t *testing.T, nodes []*redistest.Server, key string) (at, other *redistest.Server) {
	t.Helper()
	slot := int(open(t, nodes[0].URL()).ClusterKeySlot(t.Context(), key).Val())
	i := (slot*len(nodes) + len(nodes) - 1) / slots
	return nodes[i], nodes[(i+1)%len(nodes)]
}

func TestACluster(t *testing.T) {
	t.Parallel()
	admin := plainly(t)
	nodes := startCluster(t, 3, admin)
	for _, node := range nodes {
		command(t, admin(node), "ACL SETUSER least on >hunter2 ~prod:* &prod:* +get +set +incr +eval +evalsha +script|load +subscribe +publish +cluster|slots")
	}
	client := open(t, clusterURL("least:hunter2@", nodes[0]))
	for i := range 50 {
		key := fmt.Sprintf("prod:{%d}", i)
		require.NoError(t, client.Set(t.Context(), key, i, 0).Err())
		require.Equal(t, i+1, func() int {
			n, err := client.Eval(t.Context(), "return redis.call('INCR', KEYS[1])", []string{key}).Int()
			require.NoError(t, err)
			return n
		}())
	}
	p := client.Pipeline()
	for i := range 50 {
		p.Get(t.Context(), fmt.Sprintf("prod:{%d}", i))
	}
	_, err := p.Exec(t.Context())
	require.NoError(t, err)
	requireSubscription(t, client, "prod:{breaker}:ch")
	for _, node := range nodes {
		require.True(t, calls(t, admin(node), "incr"))
		require.False(t, calls(t, admin(node), "command"), "would be waited for, and is forbidden")
	}
}

// While a slot moves, keys are at the old or the new node; afterwards the old
// one answers MOVED. The client follows both in the same call.
func TestASlotThatMoves(t *testing.T) {
	t.Parallel()
	admin := plainly(t)
	nodes := startCluster(t, 2, admin)
	client := open(t, clusterURL("", nodes...))
	require.NoError(t, client.Set(t.Context(), "prod:{a}1", "old", 0).Err())
	from, to := owner(t, nodes, "prod:{a}1")
	slot := admin(from).ClusterKeySlot(t.Context(), "prod:{a}1").Val()
	require.Equal(t, "old", admin(from).Get(t.Context(), "prod:{a}1").Val())
	id := func(s *redistest.Server) string { return command(t, admin(s), "CLUSTER MYID").Val().(string) }

	command(t, admin(to), fmt.Sprintf("CLUSTER SETSLOT %d IMPORTING %s", slot, id(from)))
	command(t, admin(from), fmt.Sprintf("CLUSTER SETSLOT %d MIGRATING %s", slot, id(to)))
	require.NoError(t, client.Set(t.Context(), "prod:{a}2", "new", 0).Err())
	n, err := client.Eval(t.Context(), "return redis.call('INCR', KEYS[1])", []string{"prod:{a}3"}).Int()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, "old", client.Get(t.Context(), "prod:{a}1").Val())

	require.NoError(t, admin(from).Del(t.Context(), "prod:{a}1").Err())
	command(t, admin(to), fmt.Sprintf("CLUSTER SETSLOT %d NODE %s", slot, id(to)))
	command(t, admin(from), fmt.Sprintf("CLUSTER SETSLOT %d NODE %s", slot, id(to)))
	require.Equal(t, "new", client.Get(t.Context(), "prod:{a}2").Val())
}

func TestNobodyWaitsForACluster(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3, plainly(t))
	warm, cold := open(t, clusterURL("", nodes...)), open(t, clusterURL("", nodes...))
	requireRecovery(t, warm)
	for _, node := range nodes {
		node.Freeze()
	}
	requireBounded(t, warm)
	requireBounded(t, cold)
	for _, node := range nodes {
		node.Thaw()
	}
	requireRecovery(t, warm)
	requireRecovery(t, cold)
	for _, node := range nodes {
		node.Kill()
	}
	requireBounded(t, warm)
}

// A client that knows the cluster finds a master's successor although nobody
// tells it: the dead node cannot answer that it has moved.
func TestAClusterFailover(t *testing.T) {
	t.Parallel()
	admin := plainly(t)
	nodes := startCluster(t, 3, admin)
	replica := redistest.Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")
	master, other := owner(t, nodes, "prod:{b}")
	client := open(t, clusterURL("", nodes...))
	requireRecovery(t, client)

	host, port, err := net.SplitHostPort(other.Addr())
	require.NoError(t, err)
	command(t, admin(replica), "CLUSTER MEET "+host+" "+port)
	id := command(t, admin(master), "CLUSTER MYID").Val().(string)
	require.Eventually(t, func() bool { return admin(replica).Do(t.Context(), "CLUSTER", "REPLICATE", id).Err() == nil }, patience, 50*time.Millisecond)
	require.Eventually(t, func() bool {
		return strings.Contains(admin(replica).Info(t.Context(), "replication").Val(), "master_link_status:up") &&
			strings.Contains(admin(other).ClusterNodes(t.Context()).Val(), "slave "+id)
	}, patience, 50*time.Millisecond)

	master.Kill()
	requireBounded(t, client)
	requireRecovery(t, client)
	require.Contains(t, admin(replica).Info(t.Context(), "replication").Val(), "role:master")
}

func TestAClusterOverTLS(t *testing.T) {
	t.Parallel()
	args, query := tlsFiles(t)
	admin := func(s *redistest.Server) redis.UniversalClient { return open(t, "rediss://"+s.Addr()+"?"+query) }
	nodes := startCluster(t, 3, admin, append(args, "--tls-cluster", "yes")...)
	client := open(t, "redi"+"ss"+strings.TrimPrefix(clusterURL("", nodes[0]), "redis")+"?"+query)
	for i := range 20 {
		require.NoError(t, client.Set(t.Context(), fmt.Sprintf("prod:{%d}", i), i, 0).Err())
	}
}
