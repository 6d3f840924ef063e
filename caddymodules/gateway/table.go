package gateway

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/redisclient"
)

// stopTimeout is how long the last user of a table waits for its end.
const stopTimeout = 2 * time.Second

// tables holds one table per database, shared by the configurations that are
// alive at the same time during a reload.
var tables = caddy.NewUsagePool()

// tableKey is the hash of a database's URL, which may hold a password. How
// often to poll and where Redis is are not part of it: a reload that changes
// them keeps the table.
type tableKey [sha256.Size]byte

// wish is how one configuration wants the table kept.
type wish struct {
	settings  permission.Settings
	redis     *redisclient.Options // where changes are announced; nil: nowhere
	namespace string
	logger    *slog.Logger
}

// sharedTable is a permission table that runs while any configuration uses it.
type sharedTable struct {
	*permission.Table
	ctx     context.Context // the life of the pooled table, ended by Destruct
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	wishes []*wish // of the configurations in use; the last one holds
	runs   bool
	heard  *wish  // whose Redis is listened to, nil if none
	deafen func() // ends the listening
}

func acquireTable(url string) (*sharedTable, tableKey, error) {
	key := tableKey(sha256.Sum256([]byte(url)))
	value, _, err := tables.LoadOrNew(key, func() (caddy.Destructor, error) {
		table, err := permission.New(url, permission.Settings{}, clock.System{})
		if err != nil {
			return nil, err
		}
		s := &sharedTable{Table: table}
		s.ctx, s.cancel = context.WithCancel(context.Background())
		return s, nil
	})
	if err != nil {
		return nil, tableKey{}, err
	}
	return value.(*sharedTable), key, nil
}

// use fulfils a wish and starts the table if it does not run yet.
func (s *sharedTable) use(w *wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wishes = append(s.wishes, w)
	s.fulfil(w)
	if s.runs {
		return
	}
	s.runs = true
	s.running.Go(func() { s.Run(s.ctx) })
}

// forget takes a wish back. If it is the one that holds, because a reload
// failed half-way, that of the configuration before holds again.
func (s *sharedTable) forget(w *wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.wishes, w)
	if i < 0 {
		return
	}
	s.wishes = slices.Delete(s.wishes, i, i+1)
	switch {
	case len(s.wishes) == 0:
		s.listen(nil)
	case i == len(s.wishes):
		s.fulfil(s.wishes[i-1])
	}
}

func (s *sharedTable) fulfil(w *wish) {
	s.Configure(w.settings)
	s.listen(w)
}

// Destruct stops the table. Its last snapshot stays for requests on their way.
func (s *sharedTable) Destruct() error {
	s.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.running.Wait()
	}()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C: // a hanging file system: leave it behind
	}
	return s.Close()
}

var _ caddy.Destructor = (*sharedTable)(nil)
