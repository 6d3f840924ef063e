package permission

import (
	"fmt"
	"hash/maphash"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestMembersFindsExactlyWhatWasAdded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		id := rapid.StringOfN(rapid.RuneFrom([]rune("ab\x00é")), 0, 4, -1)
		want := rapid.MapOf(id, rapid.Uint32()).Draw(rt, "members")
		var b membersBuilder
		for range 2 { // a builder is used again for the next tenant
			for user, role := range want {
				require.NoError(rt, b.add([]byte(user), role))
			}
			seed := maphash.MakeSeed()
			m := b.build(seed)
			for user, role := range want {
				got, ok := m.find(user, seed)
				require.Equal(rt, user != "", ok)
				if ok {
					require.Equal(rt, role, got)
				}
			}
			stranger := id.Draw(rt, "stranger")
			_, ok := m.find(stranger, seed)
			_, member := want[stranger]
			require.Equal(rt, member && stranger != "", ok)
		}
	})
}

func TestMembersLeavesOutWhatNoPrincipalCanHave(t *testing.T) {
	t.Parallel()
	var b membersBuilder
	longest := strings.Repeat("x", maxUserID)
	require.NoError(t, b.add(nil, 1))
	require.NoError(t, b.add([]byte(longest+"x"), 2))
	require.NoError(t, b.add([]byte(longest), 3))
	seed := maphash.MakeSeed()
	m := b.build(seed)
	role, ok := m.find(longest, seed)
	require.True(t, ok)
	require.Equal(t, uint32(3), role)
	for _, user := range []string{"", longest + "x", longest[1:]} {
		_, ok := m.find(user, seed)
		require.False(t, ok)
	}
}

// Changes are kept apart in a large table and built into a small one; both
// must say what a map says, and leave the table before them as it was.
func TestMembersWithChanges(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"small": 10, "large": manyMembers} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := maphash.MakeSeed()
			var b membersBuilder
			base := map[string]uint32{}
			for i := range size {
				base[fmt.Sprint("u", i)] = uint32(i % 7)
				require.NoError(t, b.add(fmt.Append(nil, "u", i), uint32(i%7)))
			}
			first := b.build(seed)
			rapid.Check(t, func(rt *rapid.T) {
				m, want := first, maps.Clone(base)
				for range rapid.IntRange(1, 5).Draw(rt, "steps") {
					changes := drawChanges(rt, size)
					next, n, err := m.with(changes, len(want), seed)
					require.NoError(rt, err)
					require.Equal(rt, want, maps.Collect(m.all(seed)), "it changed under somebody's eyes")
					for user, role := range changes {
						switch {
						case role == gone:
							delete(want, user)
						case user != "" && len(user) <= maxUserID:
							want[user] = role
						}
					}
					require.Equal(rt, want, maps.Collect(next.all(seed)))
					require.Len(rt, want, n)
					for user := range changes {
						role, ok := next.find(user, seed)
						expected, member := want[user]
						require.Equal(rt, member, ok, user)
						require.True(rt, !ok || role == expected, user)
					}
					require.True(rt, size >= manyMembers || next.recent == nil)
					m = next
				}
			})
		})
	}
}

// drawChanges draws changes of members and strangers, sometimes very many.
func drawChanges(rt *rapid.T, size int) map[string]uint32 {
	changes := map[string]uint32{}
	n := rapid.SampledFrom([]int{1, 2, 20, maxRecent + 1}).Draw(rt, "changes")
	start := rapid.IntRange(0, size+10).Draw(rt, "start")
	role := rapid.SampledFrom([]uint32{0, 3, gone}).Draw(rt, "role")
	for i := range n {
		changes[fmt.Sprint("u", start+i)] = role
	}
	changes[rapid.SampledFrom([]string{"", "u1", "u2", strings.Repeat("x", maxUserID+1)}).Draw(rt, "other")] = rapid.SampledFrom([]uint32{5, gone}).Draw(rt, "other role")
	return changes
}

func TestMembersRemap(t *testing.T) {
	t.Parallel()
	seed := maphash.MakeSeed()
	var b membersBuilder
	for i := range manyMembers {
		require.NoError(t, b.add(fmt.Append(nil, "u", i), uint32(i%2)))
	}
	m := b.build(seed)
	m, n, err := m.with(map[string]uint32{"u0": 1, "u1": gone, "new": 0}, manyMembers, seed)
	require.NoError(t, err)
	require.NotNil(t, m.recent)
	require.Equal(t, manyMembers, n)

	same, ok := m.remap([]int64{10, 11}, []*loadedRole{{id: 10}, {id: 11, index: 1}, {id: 12, index: 2}})
	require.True(t, ok)
	require.True(t, m.same(&same))
	next, ok := m.remap([]int64{10, 11}, []*loadedRole{{id: 9}, {id: 11, index: 1}, {id: 10, index: 2}})
	require.True(t, ok)
	for user, want := range map[string]uint32{"u0": 1, "u2": 2, "u3": 1, "new": 2} {
		role, ok := next.find(user, seed)
		require.True(t, ok)
		require.Equal(t, want, role, user)
	}
	_, ok = next.find("u1", seed)
	require.False(t, ok)
	_, ok = m.remap([]int64{10, 11}, []*loadedRole{{id: 11}})
	require.False(t, ok, "members whose role is gone")
}

// A long chain and a cycle are read in a time that grows with their length.
func TestInheritanceOfAnyShape(t *testing.T) {
	t.Parallel()
	const n = 20_000
	roles := make([]*loadedRole, n)
	for i := range roles {
		roles[i] = &loadedRole{index: i}
	}
	for i := range roles[1:] {
		roles[i].parents = []*loadedRole{roles[i+1]}
	}
	roles[n-1].rights = []uint64{1}
	inherit(roles)
	require.Equal(t, []uint64{1}, roles[0].rights)

	roles[n-1].parents = []*loadedRole{roles[0], roles[n/2]}
	roles[n/3].rights = []uint64{3}
	inherit(roles)
	for _, r := range roles {
		require.Equal(t, []uint64{3}, r.rights)
	}
}

// However often the table is woken, it rests as long as it read.
func TestWaitRestsAndThenWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := &Table{wake: make(chan struct{}, 1)}
		waited := func(rest, poll time.Duration) time.Duration {
			began := time.Now()
			table.wait(t.Context(), rest, poll)
			return time.Since(began)
		}
		require.Equal(t, time.Minute, waited(0, time.Minute))
		require.Equal(t, time.Minute, waited(time.Second, time.Minute))
		require.Equal(t, time.Second, waited(time.Second, time.Millisecond))
		table.Refresh()
		require.Equal(t, time.Second, waited(time.Second, time.Minute))
		table.Refresh()
		require.Zero(t, waited(0, time.Minute))
	})
}

// The table once grew by a third with every reload.
func TestTenantsKeepTheirSizeOverReloads(t *testing.T) {
	t.Parallel()
	s := (&Snapshot{}).with(version{}, map[int64]*tenant{1: {stats: Stats{Tenants: 1}}, 2: {stats: Stats{Tenants: 1}}})
	for i := range 1000 {
		s = s.with(version{}, map[int64]*tenant{2: {stats: Stats{Tenants: 1, Rows: i}}})
		require.Less(t, len(s.tenants), 8)
		require.Equal(t, Stats{Tenants: 2, Rows: i}, s.stats)
		require.NotNil(t, s.tenants.find(1))
		require.Nil(t, s.tenants.find(3))
	}
}

func TestTenantsFindsExactlyWhatWasAdded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ids := rapid.SliceOfDistinct(rapid.OneOf(rapid.Int64Range(-3, 40), rapid.Int64()), rapid.ID[int64]).Draw(rt, "ids")
		table := newTenants(len(ids))
		want := map[int64]*tenant{}
		for _, id := range ids {
			want[id] = &tenant{}
			table.add(id, want[id])
		}
		for id := int64(-5); id < 50; id++ {
			require.Same(rt, want[id], table.find(id), fmt.Sprint(id))
		}
		for id := range want {
			require.Same(rt, want[id], table.find(id), fmt.Sprint(id))
		}
	})
}
