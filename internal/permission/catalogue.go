package permission

import (
	"reflect"
	"slices"
)

// catalogue gives every (product, feature, action) its bit. It is immutable.
// Snapshots share one until a product or feature changes.
type catalogue struct {
	products map[string]map[string]feature // product name → feature name
	features map[int64]feature             // feature id, for the loader
	size     int                           // number of bits
}

// feature holds the bits of one feature: base + the action's index.
type feature struct {
	base    int
	actions []string
}

func newCatalogue() *catalogue {
	return &catalogue{products: map[string]map[string]feature{}, features: map[int64]feature{}}
}

func (c *catalogue) addProduct(name string) {
	if c.products[name] == nil {
		c.products[name] = map[string]feature{}
	}
}

func (c *catalogue) addFeature(id int64, product, name string, actions []string) {
	f := feature{base: c.size, actions: actions}
	c.size += len(actions)
	c.addProduct(product)
	c.products[product][name] = f
	c.features[id] = f
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

func (c *catalogue) equal(other *catalogue) bool { return reflect.DeepEqual(c, other) }

// Ref is a [Permission] that was looked up in a snapshot's catalogue. Routes
// keep one, so that a decision compares no names. It is immutable.
type Ref struct {
	permission Permission
	catalogue  *catalogue
	bit        int
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
		return 0, UnknownProduct
	}
	f, ok := features[p.Feature]
	if !ok {
		return 0, UnknownFeature
	}
	i := slices.Index(f.actions, p.Action)
	if i < 0 {
		return 0, UnknownAction
	}
	return f.base + i, ""
}
