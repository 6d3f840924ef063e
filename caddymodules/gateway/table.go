package gateway

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// stopTimeout is how long the last user of a table waits for its end.
const stopTimeout = 2 * time.Second

// tables holds one table per database, shared by the configurations that are
// alive at the same time during a reload.
var tables = caddy.NewUsagePool()

// tableKey is the hash of a database's URL, which may hold a password. How
// often to poll is not part of it: a reload that changes it keeps the table.
type tableKey [sha256.Size]byte

// sharedTable is a permission table that runs while any configuration uses it.
type sharedTable struct {
	*permission.Table
	ctx    context.Context // the life of the pooled table, ended by Destruct
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned

	mu    sync.Mutex
	users []*permission.Settings // of the configurations in use; the last one holds
	runs  bool
}

func acquireTable(url string) (*sharedTable, tableKey, error) {
	key := tableKey(sha256.Sum256([]byte(url)))
	value, _, err := tables.LoadOrNew(key, func() (caddy.Destructor, error) {
		table, err := permission.New(url, permission.Settings{}, clock.System{})
		if err != nil {
			return nil, err
		}
		s := &sharedTable{Table: table, done: make(chan struct{})}
		s.ctx, s.cancel = context.WithCancel(context.Background())
		return s, nil
	})
	if err != nil {
		return nil, tableKey{}, err
	}
	return value.(*sharedTable), key, nil
}

// use applies settings and starts the table if it does not run yet.
func (s *sharedTable) use(settings *permission.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = append(s.users, settings)
	s.Configure(*settings)
	if s.runs {
		return
	}
	s.runs = true
	go func() {
		defer close(s.done)
		s.Run(s.ctx)
	}()
}

// forget takes settings back. If they are the ones that hold, because a reload
// failed half-way, those of the configuration before hold again.
func (s *sharedTable) forget(settings *permission.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.users, settings)
	if i < 0 {
		return
	}
	s.users = slices.Delete(s.users, i, i+1)
	if i == len(s.users) && i > 0 {
		s.Configure(*s.users[i-1])
	}
}

// Destruct stops the table. Its last snapshot stays for requests on their way.
func (s *sharedTable) Destruct() error {
	s.cancel()
	s.mu.Lock()
	runs := s.runs
	s.mu.Unlock()
	if runs {
		timer := time.NewTimer(stopTimeout)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C: // a hanging file system: leave it behind
		}
	}
	return s.Close()
}

var _ caddy.Destructor = (*sharedTable)(nil)
