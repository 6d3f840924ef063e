package permission

import (
	"fmt"
	"hash/maphash"
	"strings"
	"testing"

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
