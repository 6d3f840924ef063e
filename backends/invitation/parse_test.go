package invitation_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func FuzzToken(f *testing.F) {
	good, hash, err := invitation.NewToken(rand.Reader)
	require.NoError(f, err)
	parsed, ok := invitation.ParseToken(good.Reveal())
	require.True(f, ok)
	require.Equal(f, hash, parsed)
	for _, seed := range []string{
		good.Reveal(), "", "inv_", "INV_" + good.Reveal()[4:], good.Reveal() + "=", good.Reveal()[:46] + "\n",
		"inv_" + strings.Repeat("A", 42) + "B", "inv_" + strings.Repeat("/", 43), "01890a5d-ac96-774b-bcce-b302099a8057",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hash, ok := invitation.ParseToken(text)
		if !ok {
			require.Nil(t, hash)
			return
		}
		require.Len(t, hash, 32)
		require.Regexp(t, `^inv_[A-Za-z0-9_-]{43}$`, text)
	})
}

func FuzzCursor(f *testing.F) {
	const id = "01890a5d-ac96-774b-bcce-b302099a8057"
	f.Add(invitation.EncodeCursor(0, id, "pending", ""), "pending", "")
	f.Add(invitation.EncodeCursor(1<<62, id, "", "a@x.test"), "", "a@x.test")
	f.Add("", "", "")
	f.Add(strings.Repeat("A", 38), "", "")
	f.Fuzz(func(t *testing.T, text, status, email string) {
		createdAt, id, ok := invitation.ParseCursor(text, status, email)
		if !ok {
			return
		}
		require.GreaterOrEqual(t, createdAt, int64(0))
		require.Equal(t, text, invitation.EncodeCursor(createdAt, id, status, email), "one place has one text")
		_, _, other := invitation.ParseCursor(text, status+"x", email)
		require.False(t, other)
	})
}

func FuzzCreateBody(f *testing.F) {
	fixture := newFixture(f, dbtest.SQLite(f))
	f.Add(`{"email":"a@x.test"}`)
	f.Add(`{"email":"A@BÜCHER.test","role":"Editor","name":"\u202e","metadata":{"ip_address":"::1","note":"x"}}`)
	f.Add(`{"email":"a@x.test","tenant":1e0}`)
	f.Add(`{"email":"\"a b\"@x.test"}`)
	f.Add(`[]`)
	f.Add(`{"email":"a@x.test\r\nBcc: b@x.test"}{}`)
	f.Fuzz(func(t *testing.T, body string) {
		a := fixture.as(t, admin, 1, "POST", "/api/invitations/", body)
		require.Less(t, a.Code, 500, a.Body)
		if a.Code != 201 {
			return
		}
		m := fixture.mails.last(t)
		require.NotContains(t, m.To.Address, "\n")
		require.Equal(t, 1, strings.Count(m.To.Address, "@"))
		require.Regexp(t, `^[!-~]+$`, m.To.Address)
	})
}
