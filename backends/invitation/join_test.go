package invitation_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func (f *fixture) setSeats(t require.TestingT, seats int) {
	f.exec(t, `UPDATE tenants SET seats = NULLIF($1, 0) WHERE id = 1`, seats)
}

func (f *fixture) countMembers(t require.TestingT) string {
	return f.text(t, `SELECT COUNT(*) FROM memberships WHERE tenant_id = 1`)
}

// refusal is the status and code of an answer.
func (a answer) refusal() string { return fmt.Sprint(a.Code, " ", a.code()) }

func TestSeatsAreTakenByMembersAndPendingInvitations(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.setSeats(t, 4) // two members
		first, _ := f.invite(t, "a@x.test")
		f.clock.Advance(time.Hour)
		f.invite(t, "b@x.test")
		a := f.create(t, `{"email":"c@x.test"}`)
		require.Equal(t, "409 seats-full", a.refusal())
		require.InDelta(t, 4, a.body["seats"], 0)
		require.Equal(t, "409 invitation-already-pending", f.create(t, `{"email":"b@x.test"}`).refusal(), "that says more")
		require.Equal(t, http.StatusCreated, f.invites(t, stranger, 2, "c@x.test").Code, "another tenant's seats are its own")

		require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+first+"/cancel/", "").Code)
		require.Equal(t, []string{"201", "409 seats-full"}, f.bulk(t, `{"invitations":[{"email":"c@x.test"},{"email":"d@x.test"}]}`).results())
		f.exec(t, `UPDATE users SET status = 'disabled' WHERE id = 'editor-user'`)
		require.Equal(t, "409 seats-full", f.create(t, `{"email":"d@x.test"}`).refusal(), "who is disabled keeps the seat")
		f.exec(t, `DELETE FROM memberships WHERE user_id = 'editor-user'`)
		f.invite(t, "d@x.test")
		f.clock.Advance(invitation.DefaultLifetime)
		for i := range 3 {
			f.invite(t, fmt.Sprintf("p%d@x.test", i)) // those that lapsed take none
		}
		require.Equal(t, "409 seats-full", f.create(t, `{"email":"p3@x.test"}`).refusal())
		f.setSeats(t, 0)
		f.invite(t, "p3@x.test")
	})
}

func TestAnAcceptNeedsASeat(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, token := f.invite(t, "a@x.test")
		f.setSeats(t, 2)
		for _, a := range []answer{f.accept(t, token, goodPassword), f.look(t, token)} {
			require.Equal(t, "409 seats-full", a.refusal())
			require.Nil(t, a.body["seats"], "how many there are is the tenant's business")
		}
		require.Equal(t, "pending", f.get(t, id).body["status"])
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM users WHERE email = 'a@x.test'`))
		f.exec(t, `DELETE FROM memberships WHERE user_id = 'editor-user'`)
		require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code, "the token is alive still")
		require.Equal(t, "2", f.countMembers(t))
	})
}

func TestParallelAcceptsTakeNoMoreSeatsThanThereAre(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		const people, free = 12, 3
		var tokens [people]string
		for i := range tokens {
			_, tokens[i] = f.invite(t, fmt.Sprintf("p%d@x.test", i))
		}
		f.setSeats(t, 2+free)
		codes := parallel(people, func(i int) int { return f.accept(t, tokens[i], goodPassword).Code })
		require.Equal(t, map[int]int{http.StatusCreated: free, http.StatusConflict: people - free}, codes)
		require.Equal(t, "5", f.countMembers(t))
		require.Equal(t, free, f.count(t, `status = 'accepted'`))
		require.Equal(t, people-free, f.count(t, `status = 'pending'`))
		require.Equal(t, "3", f.text(t, `SELECT COUNT(*) FROM users WHERE email LIKE '%@x.test'`))
	})
}

func TestParallelCreatesTakeNoMoreSeatsThanThereAre(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.setSeats(t, 2+3)
		codes := parallel(12, func(i int) int { return f.invites(t, admin, 1, fmt.Sprintf("p%d@x.test", i)).Code })
		require.Equal(t, map[int]int{http.StatusCreated: 3, http.StatusConflict: 9}, codes)
		require.Equal(t, 3, f.count(t, `status = 'pending'`))
	})
}

// TestTheLastSeatGoesToOneOfManyWhoComeInEveryWay: accepts and creates at once.
func TestTheLastSeatGoesToOneOfManyWhoComeInEveryWay(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		_, token := f.invite(t, "a@x.test")
		f.setSeats(t, 4)
		codes := parallel(12, func(i int) int {
			if i == 0 {
				return f.accept(t, token, goodPassword).Code
			}
			return f.invites(t, admin, 1, fmt.Sprintf("p%d@x.test", i)).Code
		})
		require.Equal(t, map[int]int{http.StatusCreated: 2, http.StatusConflict: 10}, codes)
		require.Equal(t, "3", f.countMembers(t))
		require.Equal(t, 1, f.count(t, `status = 'pending'`))
	})
}

func TestATenantInvitesTheDomainsOfItsListsOnly(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		n := 0
		for _, test := range []struct {
			allowed, denied, domain string
			good                    bool
		}{
			{"", "", "x.test", true},
			{"x.test", "", "x.test", true},
			{"x.test", "", "X.TEST", true},
			{"x.test", "", "sub.x.test", false},
			{"x.test", "", "notx.test", false},
			{"x.test", "", "x.test.evil.test", false},
			{"*.x.test", "", "a.b.x.test", true},
			{"*.x.test", "", "x.test", false},
			{"", "x.test", "x.test", false},
			{"", "x.test", "y.test", true},
			{"", "*.x.test", "a.x.test", false},
			{"x.test", "x.test", "x.test", false},
			{"xn--bcher-kva.example", "", "bücher.example", true},
			{"", "xn--bcher-kva.example", "BÜCHER.example", false},
		} {
			f.exec(t, `UPDATE tenants SET allowed_domains = $1, denied_domains = $2 WHERE id = 1`, test.allowed, test.denied)
			n++
			email := fmt.Sprintf("p%d@%s", n, test.domain)
			a := f.create(t, `{"email":"`+email+`"}`)
			if test.good {
				require.Equal(t, http.StatusCreated, a.Code, "%v: %s", test, a.Body)
				continue
			}
			require.Equal(t, http.StatusUnprocessableEntity, a.Code, "%v: %s", test, a.Body)
			require.Equal(t, []string{"/email domain-not-allowed"}, a.fields())
			require.NotContains(t, strings.ReplaceAll(a.Body.String(), email, ""), "x.test", "the list is the tenant's business")
		}
	})
}

func TestAnAcceptIsJudgedByTheListsOfNow(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, token := f.invite(t, "a@x.test")
		_, member := f.invite(t, "admin@globex.test")
		for _, lists := range [][2]string{{"y.test", ""}, {"", "x.test,globex.test"}} {
			f.exec(t, `UPDATE tenants SET allowed_domains = $1, denied_domains = $2 WHERE id = 1`, lists[0], lists[1])
			require.Equal(t, "409 domain-not-allowed", f.accept(t, token, goodPassword).refusal())
			require.Equal(t, "409 domain-not-allowed", f.look(t, token).refusal())
			require.Equal(t, "409 domain-not-allowed", f.accept(t, member, "the globex password").refusal(), "an account is no exception")
		}
		require.Equal(t, "pending", f.get(t, id).body["status"])
		f.exec(t, `UPDATE tenants SET allowed_domains = 'x.test', denied_domains = '' WHERE id = 1`)
		require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code)
	})
}

// inviterTroubles are ways in which an editor of acme may no longer invite a Viewer.
var inviterTroubles = map[string]string{
	"they left":                                    `DELETE FROM memberships WHERE user_id = 'editor-user'`,
	"they were disabled":                           `UPDATE users SET status = 'disabled' WHERE id = 'editor-user'`,
	"they may not invite any more":                 `DELETE FROM role_feature_permissions WHERE role_id = 2 AND feature_id = 2 AND action = 'write'`,
	"they lost a right":                            `DELETE FROM role_feature_permissions WHERE role_id = 2 AND feature_id = 1 AND action = 'read'`,
	"their role is a lesser one":                   `UPDATE memberships SET role_id = 3 WHERE user_id = 'editor-user'`,
	"the role got a right of which they have none": `INSERT INTO role_feature_permissions VALUES (3, 1, 'delete')`,
	"the role inherits one":                        `INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES (1, 3, 1)`,
	"the role got a wildcard":                      `INSERT INTO role_wildcards (role_id, action) VALUES (3, 'read')`,
}

func TestWhoMayNoLongerInviteHasInvitedNobody(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		n := 0
		for name, statement := range inviterTroubles {
			n++
			emails := []string{fmt.Sprintf("p%d@x.test", n), "admin@globex.test"} // of a new account, and of an old one
			for _, email := range emails {
				require.Equal(t, http.StatusCreated, f.invites(t, editor, 1, email).Code)
				f.service.Settle()
				require.Equal(t, http.StatusOK, f.look(t, f.mails.offered(t, email)).Code)
			}
			f.exec(t, statement)
			for _, email := range emails {
				require.Equal(t, "409 inviter-not-allowed", f.accept(t, f.mails.offered(t, email), "the globex password").refusal(), name)
				look := f.look(t, f.mails.offered(t, email))
				require.Equal(t, "409 inviter-not-allowed", look.refusal(), name)
				require.NotContains(t, look.Body.String(), "editor", "nobody is named")
			}
			require.Equal(t, 2, f.count(t, `status = 'pending'`), name)
			f.exec(t, editorWell+`DELETE FROM role_feature_permissions WHERE role_id = 3 AND action = 'delete'; DELETE FROM role_parents; DELETE FROM role_wildcards`)
			for _, email := range emails {
				require.Equal(t, http.StatusCreated, f.accept(t, f.mails.offered(t, email), "the globex password").Code, "they may again: %s", name)
			}
			f.exec(t, `DELETE FROM memberships WHERE tenant_id = 1 AND user_id = 'globex-admin'`)
		}
	})
}

func TestAnInstallationMayTrustInviters(t *testing.T) {
	t.Parallel()
	for name, statement := range inviterTroubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.TrustInviters = true })
			require.Equal(t, http.StatusCreated, f.invites(t, editor, 1, "a@x.test").Code)
			f.service.Settle()
			f.exec(t, statement)
			require.Equal(t, http.StatusCreated, f.accept(t, tokenIn(t, f.mails.last(t).Text), goodPassword).Code)
		})
	}
}

// TestWhatAnAcceptNeedsIsLookedAtAgainAtTheCommit: between the look at the store
// and the commit there is time for a change.
func TestWhatAnAcceptNeedsIsLookedAtAgainAtTheCommit(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		var f *fixture
		meanwhile := ""
		f = newFixture(t, url, func(c *invitation.Config) {
			c.Hasher = slowHasher{meanwhile: func() { f.exec(t, meanwhile) }}
		})
		_, token := f.invite(t, "a@x.test")
		for _, test := range []struct{ statement, code string }{
			{`DELETE FROM memberships WHERE user_id = 'admin-user'`, "inviter-not-allowed"},
			{`UPDATE memberships SET role_id = 3 WHERE user_id = 'admin-user'`, "inviter-not-allowed"},
			{`UPDATE users SET status = 'disabled' WHERE id = 'admin-user'`, "inviter-not-allowed"},
			{`UPDATE tenants SET seats = 1 WHERE id = 1`, "seats-full"},
			{`UPDATE tenants SET denied_domains = 'x.test' WHERE id = 1`, "domain-not-allowed"},
			{`DELETE FROM roles WHERE id = 3`, "role-gone"},
		} {
			f.exec(t, `DELETE FROM memberships WHERE user_id = 'admin-user'; INSERT INTO memberships VALUES (1, 'admin-user', 1, 0, 0);
				UPDATE users SET status = 'active' WHERE id = 'admin-user'; UPDATE tenants SET seats = NULL, denied_domains = '' WHERE id = 1`)
			require.Equal(t, http.StatusOK, f.look(t, token).Code)
			meanwhile = test.statement
			require.Equal(t, "409 "+test.code, f.accept(t, token, goodPassword).refusal(), test.statement)
			require.Equal(t, 1, f.count(t, `status = 'pending'`))
			require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM users WHERE email = 'a@x.test'`))
			require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'invitation.accepted'`))
		}
	})
}

// TestAResendSendsNothingThatCantBeAccepted: nobody gets a mail whose link is
// refused, and what is refused counts as no resend.
func TestAResendSendsNothingThatCantBeAccepted(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.mayReadTokens(t, 1)
		require.Equal(t, http.StatusCreated, f.invites(t, editor, 1, "a@x.test").Code)
		f.service.Settle()
		id, token := f.text(t, `SELECT id FROM invitations`), f.mails.offered(t, "a@x.test")
		f.clock.Advance(time.Minute)
		type trouble struct{ statement, code string }
		troubles := []trouble{
			{`UPDATE tenants SET status = 'suspended' WHERE id = 1`, "tenant-inactive"},
			{`UPDATE tenants SET seats = 1 WHERE id = 1`, "seats-full"},
			{`UPDATE tenants SET denied_domains = 'x.test' WHERE id = 1`, "domain-not-allowed"},
			{`INSERT INTO users (id, email, email_key, name, password_hash, status, created_at, updated_at) VALUES ('new', 'a@x.test', 'a@x.test', '', 'x', 'active', 0, 0);
				INSERT INTO memberships VALUES (1, 'new', 3, 0, 0)`, "already-member"},
		}
		for _, statement := range inviterTroubles {
			troubles = append(troubles, trouble{statement, "inviter-not-allowed"})
		}
		troubles = append(troubles, trouble{`DELETE FROM roles WHERE id = 3`, "role-gone"}) // the last: the role does not come back
		for _, trouble := range troubles {
			f.exec(t, trouble.statement)
			require.Equal(t, "409 "+trouble.code, f.resend(t, id, "").refusal(), trouble.statement)
			if trouble.code != "inviter-not-allowed" { // some of those keep the caller from giving the role too
				require.Equal(t, "409 "+trouble.code, f.resend(t, id, `{"deliver":false}`).refusal(), trouble.statement)
			}
			require.Equal(t, "409 "+trouble.code, f.look(t, token).refusal(), "the old link is what it was: %s", trouble.statement)
			f.exec(t, editorWell+`UPDATE tenants SET status = 'active', seats = NULL, denied_domains = '' WHERE id = 1; DELETE FROM memberships WHERE user_id = 'new';
				DELETE FROM users WHERE id = 'new'; DELETE FROM role_feature_permissions WHERE role_id = 3 AND action = 'delete'; DELETE FROM role_parents; DELETE FROM role_wildcards`)
		}
		require.Equal(t, []string{"invitation.created", "invitation.sent"}, f.audits(t, id))
		require.Equal(t, 1, f.mails.count())
	})
}
