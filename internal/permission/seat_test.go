package permission_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// Principals may share a seat, be copied and be asked about anything: what is
// remembered must never show. The oracle drives the same through changes.
func TestWhatIsRememberedHoldsForNobodyElse(t *testing.T) {
	t.Parallel()
	one, two := demoStore(t), demoStore(t)
	two.change(t, []string{`UPDATE memberships SET role_id = 13 WHERE tenant_id = 1`})
	one.change(t, []string{`UPDATE tenants SET updated_at = 2`})
	snapshots := []*permission.Snapshot{load(t, one, nil), load(t, two, nil)}
	one.changeMember(t, 1, "ed", `DELETE FROM memberships WHERE tenant_id = 1 AND user_id = 'ed'`)
	snapshots = append(snapshots, load(t, one, snapshots[0]))
	one.changeRoles(t, 2, `UPDATE tenants SET status = 'suspended' WHERE id = 2`)
	snapshots = append(snapshots, load(t, one, snapshots[2]))
	rapid.Check(t, func(rt *rapid.T) {
		seat := &identity.Seat{}
		for range 30 {
			s := rapid.SampledFrom(snapshots).Draw(rt, "snapshot")
			who := identity.Principal{
				UserID:   rapid.SampledFrom([]string{"ann", "ed", "vic", "gil", "gus", "nobody", ""}).Draw(rt, "user"),
				TenantID: rapid.SampledFrom([]string{"1", "2", "01", ""}).Draw(rt, "token's tenant"),
				Seat:     rapid.SampledFrom([]*identity.Seat{seat, nil}).Draw(rt, "seat"),
			}
			tenant := rapid.SampledFrom([]string{"1", "2", "3", "4", "01", "", "x"}).Draw(rt, "tenant")
			p := perm("abc", "dashboard", rapid.SampledFrom([]string{"read", "delete", "fly"}).Draw(rt, "action"))
			ref := rapid.SampledFrom(snapshots).Draw(rt, "reference's snapshot").Resolve(p)
			require.Equal(rt, show(s.Decide(tenant, who.UserID, ref)), show(s.DecideFor(&who, tenant, ref)))
		}
	})
}

// Readers share principals while members change and everything is swapped. No
// decision may come from another snapshot than the one that was asked.
func TestDecideForDuringSwaps(t *testing.T) {
	t.Parallel()
	db := demoStore(t)
	var current atomic.Pointer[permission.Snapshot]
	current.Store(load(t, db, nil))
	principals := []*identity.Principal{{UserID: "ann", TenantID: "1", Seat: &identity.Seat{}}, {UserID: "ed", TenantID: "1", Seat: &identity.Seat{}}}
	principals = append(principals, &identity.Principal{UserID: "vic", TenantID: "1", Seat: principals[0].Seat}) // as a copy with another user would
	stop, errs := make(chan struct{}), make(chan error, 4)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				s, who, tenant := current.Load(), principals[i%len(principals)], strconv.Itoa(1+i/3%2)
				ref := s.Resolve(perm("abc", "dashboard", "delete"))
				if got, want := s.DecideFor(who, tenant, ref), s.Decide(tenant, who.UserID, ref); got != want {
					errs <- fmt.Errorf("%s in %s at %d: %v instead of %v", who.UserID, tenant, s.Seq(), show(got), show(want))
					return
				}
			}
		})
	}
	for i := range 200 {
		role := 11 + i%3
		switch i % 4 {
		case 0:
			db.changeMember(t, 1, "ann", fmt.Sprintf(`UPDATE memberships SET role_id = %d WHERE tenant_id = 1 AND user_id = 'ann'`, role))
		case 1:
			db.changeRoles(t, 1, fmt.Sprintf(`UPDATE roles SET name = 'A%d' WHERE id = 13`, i))
		case 2:
			db.change(t, []string{fmt.Sprintf(`UPDATE memberships SET role_id = %d WHERE tenant_id = 1 AND user_id = 'ed'`, role)}, 1)
		default:
			db.change(t, []string{fmt.Sprintf(`UPDATE products SET name = 'x%d' WHERE id = 2`, i)})
		}
		current.Store(load(t, db, current.Load()))
	}
	close(stop)
	readers.Wait()
	select {
	case err := <-errs:
		require.NoError(t, err)
	default:
	}
}

func TestDecideForAllocatesNothing(t *testing.T) { // not in parallel: AllocsPerRun counts everybody's
	s := load(t, demoStore(t), nil)
	ref := s.Resolve(perm("abc", "dashboard", "read"))
	who := &identity.Principal{UserID: "ann", TenantID: "1", Seat: &identity.Seat{}}
	require.True(t, s.DecideFor(who, "1", ref).Allowed)
	require.Zero(t, testing.AllocsPerRun(1000, func() { s.DecideFor(who, "1", ref) }))
	require.NotNil(t, who.Seat.Last())
	var none *identity.Seat
	none.Note(&identity.Seating{})
	require.Nil(t, none.Last())
}
