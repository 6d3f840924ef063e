package permission

import (
	"cmp"
	"database/sql"
	"maps"
	"slices"
)

// catalogue gives every (product, feature, action) its bit. It is immutable.
// Snapshots share one until a product or feature changes.
type catalogue struct {
	products map[string]map[string]feature // product name → feature name
	names    map[int64]string              // of products by id, for the loader
	features map[int64]feature             // by id, for the loader
	all      []Permission                  // by bit: sorted by product, feature and action
	full     []uint64                      // the bits that a wildcard for everything means
}

// feature holds the bits of one feature: base + the action's index.
type feature struct {
	product, name string
	base          int
	actions       []string // sorted
}

func newCatalogue() *catalogue {
	return &catalogue{products: map[string]map[string]feature{}, names: map[int64]string{}, features: map[int64]feature{}}
}

func (c *catalogue) addProduct(id int64, name string) {
	c.names[id] = name
	c.products[name] = map[string]feature{}
}

// addFeature takes a feature of a product that was added before. Its bits come with finish.
func (c *catalogue) addFeature(id int64, product, name string, actions []string) {
	slices.Sort(actions)
	c.features[id] = feature{product: product, name: name, actions: actions}
}

// finish gives out the bits, in the order of the names.
func (c *catalogue) finish() {
	ids := slices.SortedFunc(maps.Keys(c.features), func(a, b int64) int {
		return cmp.Or(cmp.Compare(c.features[a].product, c.features[b].product), cmp.Compare(c.features[a].name, c.features[b].name))
	})
	for _, id := range ids {
		f := c.features[id]
		f.base = len(c.all)
		c.features[id], c.products[f.product][f.name] = f, f
		for _, action := range f.actions {
			c.all = append(c.all, Permission{f.product, f.name, action})
		}
	}
	c.full = c.expand(Everything)
}

// expand returns the bits of what a pattern names.
func (c *catalogue) expand(p Pattern) []uint64 {
	rights := rightsFor(len(c.all))
	for bit := range c.all {
		if p.Covers(Pattern(c.all[bit])) {
			setBit(rights, bit)
		}
	}
	return trim(rights)
}

// bit returns the bit of an action on the feature with the given id, or -1.
func (c *catalogue) bit(featureID int64, action []byte) int {
	f := c.features[featureID]
	for i := range f.actions {
		if f.actions[i] == string(action) {
			return f.base + i
		}
	}
	return -1
}

// pattern returns the wildcard that the columns of role_wildcards mean; ok is
// false if it names nothing, such as a feature of another product.
func (c *catalogue) pattern(product, feature sql.NullInt64, action sql.NullString) (p Pattern, ok bool) {
	p = Everything
	if product.Valid {
		if p.Product, ok = c.names[product.Int64]; !ok {
			return p, false
		}
	}
	if feature.Valid {
		f, ok := c.features[feature.Int64]
		if !ok || f.product != p.Product {
			return p, false
		}
		p.Feature = f.name
	}
	if action.Valid {
		p.Action = action.String
	}
	return p, true
}

// bytes returns about how much memory the catalogue takes: names stand in it
// once, a feature in two maps.
func (c *catalogue) bytes() int {
	return len(c.all)*48 + len(c.features)*300 + len(c.products)*400
}

// equal compares what everything else in a catalogue follows from.
func (c *catalogue) equal(other *catalogue) bool {
	return maps.Equal(c.names, other.names) && maps.EqualFunc(c.features, other.features, func(a, b feature) bool {
		return a.product == b.product && a.name == b.name && slices.Equal(a.actions, b.actions)
	})
}

// Ref is a [Permission] that was looked up in a snapshot's catalogue. Routes
// keep one, so that a decision compares no names. It is immutable.
type Ref struct {
	permission Permission
	catalogue  *catalogue
	bit        int    // or -1
	reason     Reason // why there is no bit, or empty
}

// Permission returns the permission that was looked up.
func (r *Ref) Permission() Permission { return r.permission }

// Known reports whether the table holds the permission, and if not, which part
// of it is unknown: [UnknownProduct], [UnknownFeature] or [UnknownAction].
func (r *Ref) Known() (Reason, bool) { return r.reason, r.reason == "" }

// Resolve looks p up. The result is current for s and for all later snapshots
// with the same catalogue; with any other, decisions are right but slower.
func (s *Snapshot) Resolve(p Permission) *Ref {
	ref := &Ref{permission: p, catalogue: s.catalogue}
	ref.bit, ref.reason = s.catalogue.lookup(p)
	return ref
}

// Current reports whether r was resolved with the catalogue of s.
func (s *Snapshot) Current(r *Ref) bool { return r != nil && r.catalogue == s.catalogue }

func (c *catalogue) lookup(p Permission) (int, Reason) {
	features, ok := c.products[p.Product]
	if !ok {
		return -1, UnknownProduct
	}
	f, ok := features[p.Feature]
	if !ok {
		return -1, UnknownFeature
	}
	i := slices.Index(f.actions, p.Action)
	if i < 0 {
		return -1, UnknownAction
	}
	return f.base + i, ""
}
