package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/problem"
)

type body struct {
	Email string `json:"email"`
}

var slot = idempotency.Slot{TenantID: 1, CallerID: "u1", Route: "POST /api/invitations/", Key: "k"}

type fixture struct {
	db      *database.DB
	clock   *clock.Fake
	effects atomic.Int64 // makes each answer another one
}

// each runs f on both databases, which have the tenants 1 and 2.
func each(t *testing.T, f func(t *testing.T, f *fixture)) {
	t.Helper()
	dbtest.Each(t, func(t *testing.T, url string) {
		c := clock.NewFake(time.UnixMilli(1_700_000_000_000))
		db := dbtest.Open(t, url, c)
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO tenants (id, name, created_at, updated_at) VALUES (1, 'one', 1, 1), (2, 'two', 1, 1)`)
			return err
		}))
		f(t, &fixture{db: db, clock: c})
	})
}

// post does what a handler does: an audit event per request, and its number in
// the answer. If result is not nil the transaction ends with it.
func (f *fixture) post(ctx context.Context, s idempotency.Slot, request any, result error) (answer idempotency.Response, replayed bool, err error) {
	err = f.db.InTx(ctx, func(tx *database.Tx) error {
		stored, err := idempotency.Claim(ctx, tx, s, request)
		if err != nil {
			return err
		}
		if replayed = stored != nil; replayed {
			answer = *stored
			return nil
		}
		n := f.effects.Add(1)
		if _, err := tx.ExecContext(ctx, `INSERT INTO audit_events (id, actor_id, action, target, created_at) VALUES ($1, 'u1', 'x', 'y', 1)`, fmt.Sprint(n)); err != nil {
			return err
		}
		answer = idempotency.Response{Status: http.StatusCreated, Location: fmt.Sprint("/x/", n), Body: fmt.Appendf(nil, `{"id":%d,"é":"\\u0000"}`+"\n", n)}
		if err := idempotency.Store(ctx, tx, s, answer); err != nil {
			return err
		}
		return result
	})
	return answer, replayed, err
}

// count returns how many rows a table has.
func (f *fixture) count(t *testing.T, table string) (n int) {
	t.Helper()
	require.NoError(t, f.db.Reader().QueryRow(`SELECT COUNT(*) FROM `+table).Scan(&n))
	return n
}

func TestTheSameRequestIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		first, replayed, err := f.post(t.Context(), slot, body{"a@x.test"}, nil)
		require.NoError(t, err)
		require.False(t, replayed)
		f.clock.Advance(idempotency.TTL - time.Millisecond)
		again, replayed, err := f.post(t.Context(), slot, body{"a@x.test"}, nil)
		require.NoError(t, err)
		require.True(t, replayed)
		require.Equal(t, first, again)
		require.Equal(t, 1, f.count(t, "audit_events"))
	})
}

func TestAKeyWithAnotherRequestIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		_, _, err := f.post(t.Context(), slot, body{"a@x.test"}, nil)
		require.NoError(t, err)
		_, _, err = f.post(t.Context(), slot, body{"b@x.test"}, nil)
		require.Equal(t, "idempotency-key-reused", problem.From(err).Code)
		require.Equal(t, http.StatusUnprocessableEntity, problem.From(err).Status)
		require.Equal(t, 1, f.count(t, "audit_events"))
		_, replayed, err := f.post(t.Context(), slot, body{"a@x.test"}, nil)
		require.NoError(t, err)
		require.True(t, replayed, "the first request is still known")
	})
}

func TestKeysOfOthersAreOthers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for i, change := range []func(*idempotency.Slot){
			func(*idempotency.Slot) {},
			func(s *idempotency.Slot) { s.TenantID = 2 },
			func(s *idempotency.Slot) { s.CallerID = "u2" },
			func(s *idempotency.Slot) { s.Route = "POST /api/invitations/bulk/" },
			func(s *idempotency.Slot) { s.Key = "K" },
		} {
			s := slot
			change(&s)
			_, replayed, err := f.post(t.Context(), s, body{fmt.Sprint(i)}, nil)
			require.NoError(t, err, s)
			require.False(t, replayed, s)
		}
	})
}

func TestAnExpiredKeyIsNew(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		_, _, err := f.post(t.Context(), slot, body{"a@x.test"}, nil)
		require.NoError(t, err)
		f.clock.Advance(idempotency.TTL)
		second, replayed, err := f.post(t.Context(), slot, body{"b@x.test"}, nil)
		require.NoError(t, err)
		require.False(t, replayed)
		f.clock.Advance(idempotency.TTL - time.Millisecond)
		again, replayed, err := f.post(t.Context(), slot, body{"b@x.test"}, nil)
		require.NoError(t, err)
		require.True(t, replayed, "it is kept for as long as any")
		require.Equal(t, second, again)
	})
}

func TestWhatWasRolledBackLeavesNoKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		failure := errors.New("no")
		_, _, err := f.post(t.Context(), slot, body{"a@x.test"}, failure)
		require.ErrorIs(t, err, failure)
		require.Zero(t, f.count(t, "idempotency_keys"))
		_, replayed, err := f.post(t.Context(), slot, body{"b@x.test"}, nil)
		require.NoError(t, err)
		require.False(t, replayed)
	})
}

func TestAClaimWithoutAnAnswerIsNew(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		require.NoError(t, f.db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := idempotency.Claim(t.Context(), tx, slot, body{"a@x.test"})
			return err
		}))
		_, replayed, err := f.post(t.Context(), slot, body{"b@x.test"}, nil)
		require.NoError(t, err)
		require.False(t, replayed)
	})
}

func TestAnAnswerNeedsAClaim(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		require.EqualError(t, f.db.InTx(t.Context(), func(tx *database.Tx) error {
			return idempotency.Store(t.Context(), tx, slot, idempotency.Response{Status: http.StatusCreated})
		}), "store idempotent answer: claim the key first")
	})
}

func TestParallelRequestsHaveOneEffect(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		const n = 20
		var answers [n]idempotency.Response
		var failures [n]error
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { answers[i], _, failures[i] = f.post(t.Context(), slot, body{"a@x.test"}, nil) })
		}
		wg.Wait()
		for i := range n {
			require.NoError(t, failures[i])
			require.Equal(t, answers[0], answers[i])
		}
		require.Equal(t, 1, f.count(t, "audit_events"))
	})
}

// TestWhoWaitsTakesWhatARollbackLeaves has a request start while the holder of
// its key is at work, which then fails.
func TestWhoWaitsTakesWhatARollbackLeaves(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		failure := errors.New("no")
		var waiter sync.WaitGroup
		var replayed bool
		var waiterErr error
		require.ErrorIs(t, f.db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := idempotency.Claim(t.Context(), tx, slot, body{"a@x.test"})
			require.NoError(t, err)
			waiter.Go(func() { _, replayed, waiterErr = f.post(t.Context(), slot, body{"b@x.test"}, nil) })
			return failure
		}), failure)
		waiter.Wait()
		require.NoError(t, waiterErr)
		require.False(t, replayed)
		require.Equal(t, 1, f.count(t, "audit_events"))
	})
}

func TestPurgeDeletesWhatHasExpired(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		require.NoError(t, f.db.InTx(t.Context(), func(tx *database.Tx) error {
			values := make([]string, 1001)
			for i := range values {
				values[i] = fmt.Sprintf("(2, 'u', 'r', 'k%d', '', 1)", i)
			}
			_, err := tx.Exec(`INSERT INTO idempotency_keys (tenant_id, caller_id, route, key, fingerprint, expires_at) VALUES ` + strings.Join(values, ","))
			return err
		}))
		_, _, err := f.post(t.Context(), slot, body{"a@x.test"}, nil)
		require.NoError(t, err)
		n, err := idempotency.Purge(t.Context(), f.db)
		require.NoError(t, err)
		require.Equal(t, 1001, n)
		require.Equal(t, 1, f.count(t, "idempotency_keys"))

		f.clock.Advance(idempotency.TTL)
		n, err = idempotency.Purge(t.Context(), f.db)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		n, err = idempotency.Purge(t.Context(), f.db)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestAReplaySaysSo(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	(&idempotency.Response{Status: http.StatusCreated, Location: "/api/invitations/7", Body: []byte(`{"id":7}` + "\n")}).Write(w)
	require.Equal(t, http.StatusCreated, w.Code)
	require.JSONEq(t, `{"id":7}`, w.Body.String())
	require.Equal(t, http.Header{
		"Idempotency-Replayed": {"true"}, "Cache-Control": {"no-store"}, "Content-Type": {"application/json"},
		"Content-Length": {"9"}, "Location": {"/api/invitations/7"},
	}, w.Header())
}

func key(lines ...string) (string, error) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	if lines != nil {
		r.Header[idempotency.Header] = lines
	}
	return idempotency.Key(r)
}

func TestKeysAreReadQuotedAndBare(t *testing.T) {
	t.Parallel()
	none, err := key()
	require.NoError(t, err)
	require.Empty(t, none)
	for line, want := range map[string]string{
		`8e03978e-40d5-43dd-bc93-6894a57f9324`:   "8e03978e-40d5-43dd-bc93-6894a57f9324",
		`"8e03978e-40d5-43dd-bc93-6894a57f9324"`: "8e03978e-40d5-43dd-bc93-6894a57f9324",
		`"a \"b\" \\ c"`:                         `a "b" \ c`,
		`a \b`:                                   `a \b`,
		" \tk ":                                  "k",
		strings.Repeat("k", 255):                 strings.Repeat("k", 255),
		`"` + strings.Repeat(`\\`, 255) + `"`:    strings.Repeat(`\`, 255),
	} {
		got, err := key(line)
		require.NoError(t, err, line)
		require.Equal(t, want, got)
	}
}

func TestBadKeysAreRefused(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string][]string{
		"empty":                  {""},
		"blank":                  {" "},
		"an empty string":        {`""`},
		"twice":                  {"SECRET", "SECRET"},
		"two in one line":        {`"SECRET", "SECRET"`},
		"with a parameter":       {`"SECRET";a=1`},
		"no end":                 {`"SECRET`},
		"an escaped end":         {`"SECRET\"`},
		"an escape at the end":   {`"SECRET\`},
		"an unknown escape":      {`"SECRET\n"`},
		"too long":               {strings.Repeat("k", 256)},
		"too long in quotes":     {`"` + strings.Repeat("k", 256) + `"`},
		"not ASCII":              {"SECRETé"},
		"not ASCII, in quotes":   {`"SECRETé"`},
		"a tab":                  {"SEC\tRET"},
		"a tab in quotes":        {"\"SEC\tRET\""},
		"a control character":    {"SECRET\x7f"},
		"bytes that are no text": {"SECRET\xff"},
	} {
		_, err := key(lines...)
		require.Equal(t, http.StatusBadRequest, problem.From(err).Status, name)
		require.Equal(t, "bad-header", problem.From(err).Code, name)
		require.NotContains(t, err.Error(), "SEC", name)
	}
}

func FuzzKey(f *testing.F) {
	for _, seed := range []string{`k`, `"k"`, `"\"\\"`, `"k`, `"k";a`, "\xff", ``, `"é"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got, err := key(line)
		if err != nil {
			require.Equal(t, "bad-header", problem.From(err).Code)
			return
		}
		require.Regexp(t, `^[ -~]{1,255}$`, got)
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(got) + `"`
		again, err := key(quoted)
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}
