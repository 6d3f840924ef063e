package tenant_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// race sends two changes at once, round after round, fewer on SQLite, which has
// one writer anyway. It requires that one succeeds and that the other is refused
// with the code. reset undoes the one.
func (f *fixture) race(t *testing.T, code string, reset func(), first, second func() answer) {
	t.Helper()
	rounds, wins := 20, [2]int{}
	if f.postgres {
		rounds = 200
	}
	for range rounds {
		other := make(chan answer, 1)
		go func() {
			var a answer
			defer func() { other <- a }() // also if the test fails there
			a = second()
		}()
		a := [2]answer{first(), <-other}
		won := 0
		if a[0].Code >= 400 {
			won = 1
		}
		wins[won]++
		require.Less(t, a[won].Code, 300, "both were refused: %s %s", a[0].Body, a[1].Body)
		require.Equal(t, code, fmt.Sprint(a[1-won].Code, " ", a[1-won].text("code")))
		reset()
	}
	t.Logf("the first won %d of %d rounds", wins[0], rounds)
}

func TestTwoManagersCanNotRemoveOneAnother(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		managers := f.newRole(2, "Managers", "tenantgate/members/*")
		f.newRole(2, "Nobody")
		f.addMember("ann", 2, managers)
		f.addMember("bob", 2, managers)
		f.exec(`DELETE FROM memberships WHERE tenant_id = 2 AND role_id <> $1`, managers)
		ann, bob := caller{f, "ann", 2}, caller{f, "bob", 2}
		reset := func() {
			for _, id := range []string{"ann", "bob"} {
				if f.scalar(`SELECT COUNT(*) FROM memberships WHERE user_id = $1`, id) == 0 {
					f.exec(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (2, $1, $2, 1, 1)`, id, managers)
				}
			}
			f.exec(`UPDATE memberships SET role_id = $1 WHERE tenant_id = 2`, managers)
		}
		f.race(t, "409 last-holder", reset,
			func() answer { return ann.call("DELETE", "/api/members/bob/", "") },
			func() answer { return bob.call("PATCH", "/api/members/ann/", `{"role":"Nobody"}`) })
	})
}

func TestTwoRolesCanNotBecomeEachOthersParent(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		a, b := f.newRole(2, "A"), f.newRole(2, "B")
		f.race(t, "409 role-cycle", func() { f.exec(`DELETE FROM role_parents`) },
			func() answer { return admin.call("PUT", parents(a), named("B")) },
			func() answer { return admin.call("PUT", parents(b), named("A")) })
	})
}

func TestTwoWhoSawTheSameCanNotBothChangeIt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		role := f.newRole(2, "A")
		path := grants(role)
		tag := admin.call("GET", path, "").Header().Get("Etag")
		f.race(t, "412 precondition-failed", func() { f.exec(`DELETE FROM role_feature_permissions WHERE role_id = $1`, role) },
			func() answer { return admin.with("If-Match", tag, "PUT", path, set("abc/reports/read")) },
			func() answer { return admin.with("If-Match", tag, "PUT", path, set("abc/billing/write")) })
	})
}

func TestTwoCanNotTakeTheLastSeat(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		f.addUser("ann", "ann@x.test")
		f.addUser("bob", "bob@x.test")
		f.exec(`UPDATE tenants SET seats = (SELECT COUNT(*) FROM memberships WHERE tenant_id = 2) + 1 WHERE id = 2`)
		add := func(id string) func() answer {
			return func() answer {
				return admin.call("POST", "/api/members/", `{"user_id":"`+id+`","role":"Viewer"}`)
			}
		}
		f.race(t, "409 seats-full", func() { f.exec(`DELETE FROM memberships WHERE user_id IN ('ann', 'bob')`) }, add("ann"), add("bob"))
	})
}
