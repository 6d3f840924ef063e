package auth_test

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/auth"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/secret"
)

const keySecret secret.String = "0123456789abcdef0123456789abcdef"

func TestFirstStartMakesACurrentAndANextKey(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		_, order := f.publicKeys()
		require.Len(t, order, 2)
		a := f.call("GET", "/.well-known/jwks.json", "")
		require.Equal(t, "public, max-age=300", a.Header().Get("Cache-Control"))
		require.Equal(t, "application/jwk-set+json", a.Header().Get("Content-Type"))

		_, err := auth.New(t.Context(), f.config)
		require.NoError(t, err)
		require.Equal(t, 2, f.scalar(`SELECT COUNT(*) FROM signing_keys`), "a second start keeps them")
	})
}

func TestRotationTurnsNextIntoCurrentIntoPreviousIntoNothing(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		_, order := f.publicKeys()
		rotated, err := auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{})
		require.NoError(t, err)
		require.Equal(t, order[1], rotated.Current)
		require.Equal(t, order[0], rotated.Previous)
		require.NotContains(t, order, rotated.Next)

		_, err = auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{})
		require.ErrorIs(t, err, auth.ErrRotatedRecently)
		f.clock.Advance(time.Hour)
		again, err := auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{})
		require.NoError(t, err)
		require.Equal(t, rotated.Next, again.Current)
		require.Equal(t, rotated.Current, again.Previous)
		_, err = auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{Force: true})
		require.NoError(t, err)
		require.Equal(t, 3, f.scalar(`SELECT COUNT(*) FROM signing_keys`))
	})
}

func TestRotationOfAnEmptyInstallationMakesAllKeys(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := openDemo(t, url, clock.System{})
		rotated, err := auth.RotateKeys(t.Context(), db, auth.RotateOptions{})
		require.NoError(t, err)
		require.NotEmpty(t, rotated.Current)
		require.NotEmpty(t, rotated.Next)
		require.NotEmpty(t, rotated.Previous)
	})
}

// TestRunningServiceFollowsARotation waits for real SQLite in real time: the
// poll is a few milliseconds.
func TestRunningServiceFollowsARotation(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url, func(c *auth.Config) { c.KeyPoll = time.Millisecond })
		before := f.login("viewer@acme.test").text("access_token")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.service.Run(ctx) }()

		rotated, err := auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, order := f.publicKeys()
			return len(order) == 3 && order[0] == rotated.Current && order[1] == rotated.Next && order[2] == rotated.Previous
		}, 10*time.Second, time.Millisecond)
		_, err = f.verify(before)
		require.NoError(t, err, "tokens of the previous key stay good")
		after := f.login("viewer@acme.test").text("access_token")
		header, err := base64.RawURLEncoding.DecodeString(strings.Split(after, ".")[0])
		require.NoError(t, err)
		require.Contains(t, string(header), rotated.Current)

		f.exec(`DELETE FROM signing_keys`)
		require.Eventually(t, func() bool { return strings.Contains(f.log.String(), "signing keys not read") }, 10*time.Second, time.Millisecond)
		f.login("viewer@acme.test") // with the last keys that were read
		stop()
		require.NoError(t, <-ended)
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- f.service.Run(ctx) }()
			synctest.Wait()
			stop()
			require.NoError(t, <-ended)
		})
	})
}

func TestKeysAreSealedAtRest(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url, func(c *auth.Config) { c.KeySecret = keySecret })
		require.Equal(t, 2, f.scalar(`SELECT COUNT(*) FROM signing_keys WHERE substr(private_key, 1, 4) = $1`, []byte("tgk1")))
		f.login("viewer@acme.test")

		config := f.config
		config.KeySecret = ""
		_, err := auth.New(t.Context(), config)
		require.ErrorContains(t, err, "set KEY_ENCRYPTION_SECRET")
		config.KeySecret = keySecret + "x"
		_, err = auth.New(t.Context(), config)
		require.ErrorContains(t, err, "was not sealed with this KEY_ENCRYPTION_SECRET")
		_, err = auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{KeySecret: keySecret + "x"})
		require.ErrorContains(t, err, "was not sealed with this", "a rotation with the wrong secret would stop the service")
		_, err = auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{KeySecret: "short"})
		require.ErrorContains(t, err, "at least 32")

		f.exec(`UPDATE signing_keys SET private_key = (SELECT private_key FROM signing_keys WHERE state = 'next') WHERE state = 'current'`)
		config.KeySecret = keySecret
		_, err = auth.New(t.Context(), config)
		require.Error(t, err, "a sealed key is bound to its kid")
	})
}

func TestRotationSealsKeysOfBeforeTheSecret(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		_, err := auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{KeySecret: keySecret})
		require.NoError(t, err)
		require.Equal(t, 3, f.scalar(`SELECT COUNT(*) FROM signing_keys WHERE substr(private_key, 1, 4) = $1`, []byte("tgk1")))
		config := f.config
		config.KeySecret = keySecret
		_, err = auth.New(t.Context(), config)
		require.NoError(t, err)
	})
}

// TestManyInstancesStartAndRotateAtOnce: there is never half a set of keys, nor
// two of them.
func TestManyInstancesStartAndRotateAtOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := dbtest.Open(t, url, clock.System{})
		errs := make([]error, 8)
		atOnce := func(f func() error) {
			var all sync.WaitGroup
			for i := range errs {
				all.Go(func() { errs[i] = f() })
			}
			all.Wait()
		}
		config := auth.Config{DB: db, Log: zap.NewNop(), Clock: clock.System{}, Passwords: &plain{}, Issuer: "i", Audience: "a"}
		atOnce(func() error {
			_, err := auth.New(t.Context(), config)
			return err
		})
		require.NoError(t, errors.Join(errs...))
		states := func() (all string) {
			rows, err := db.Reader().Query(`SELECT state FROM signing_keys ORDER BY state`)
			require.NoError(t, err)
			defer func() { require.NoError(t, rows.Close()) }()
			for rows.Next() {
				var state string
				require.NoError(t, rows.Scan(&state))
				all += state + " "
			}
			require.NoError(t, rows.Err())
			return all
		}
		require.Equal(t, "current next ", states())
		atOnce(func() error {
			_, err := auth.RotateKeys(t.Context(), db, auth.RotateOptions{})
			return err
		})
		require.Equal(t, "current next previous ", states())
		rotated := 0
		for _, err := range errs {
			if err == nil {
				rotated++
				continue
			}
			require.ErrorIs(t, err, auth.ErrRotatedRecently)
		}
		require.Equal(t, 1, rotated, "one was in time, the others were told so")
	})
}

func TestNewRefusesABrokenTable(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		f.exec(`UPDATE signing_keys SET private_key = $1 WHERE state = 'next'`, []byte("junk"))
		_, err := auth.New(t.Context(), f.config)
		require.ErrorContains(t, err, "signing key")
		f.exec(`DELETE FROM signing_keys WHERE state = 'current'`)
		f.exec(`DELETE FROM signing_keys WHERE state = 'next'`)
		f.exec(`INSERT INTO signing_keys VALUES ('x', 'EdDSA', 'previous', $1, 0, 0)`, []byte{0})
		_, err = auth.New(t.Context(), f.config)
		require.Error(t, err)
		_, err = auth.RotateKeys(t.Context(), f.db, auth.RotateOptions{})
		require.ErrorContains(t, err, "no complete set")
	})
}

func TestServiceSurvivesADatabaseThatIsGone(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), dbtest.SQLite(t), clock.System{})
	require.NoError(t, err)
	service, err := auth.New(t.Context(), auth.Config{DB: db, Log: zap.NewNop(), Clock: clock.System{}, Passwords: &plain{}, Issuer: "i", Audience: "a"})
	require.NoError(t, err)
	require.NoError(t, db.Close())
	f := &fixture{t: t, handler: service.Handler()}
	a := f.call("POST", "/api/auth/login", `{"email":"a@b.co","password":"x"}`)
	require.Equal(t, 500, a.Code)
	require.NotContains(t, a.Body.String(), "sql")
	require.Equal(t, 200, f.call("GET", "/.well-known/jwks.json", "").Code)
}
