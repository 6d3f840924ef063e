package policy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// manyMembers is from how many changed members on a tenant is read anew as a
// whole.
const manyMembers = 100

// ErrLastHolder is in the chain of the error of an [Import] that would leave a
// tenant or the installation without anybody who can manage it.
var ErrLastHolder = errors.New("nobody would be left to manage this")

// errDryRun ends a transaction that must leave no trace.
var errDryRun = errors.New("dry run")

// Import makes the database what the file says, in one transaction, and returns
// what that changed; actor is who the audit log says it was. With dryRun it is
// all done, checked and taken back. If nothing differs, nothing is written.
//
// What the file says wrong is an error of type [Mistakes].
func Import(ctx context.Context, db *database.DB, file File, actor string, dryRun bool) (d Difference, err error) {
	err = db.InTx(ctx, func(tx *database.Tx) error {
		if err := permission.Lock(ctx, tx); err != nil {
			return err
		}
		plan, err := file.Against(ctx, tx)
		if err != nil {
			return err
		}
		d = plan.Difference
		if d.Same() {
			return nil
		}
		w := &writer{ctx: ctx, tx: tx, plan: plan, actor: actor, prepared: map[string]*sql.Stmt{}}
		defer w.close()
		if err := w.apply(); err != nil {
			return err
		}
		if dryRun {
			return errDryRun
		}
		return nil
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	return d, err
}

// writer writes a plan.
type writer struct {
	ctx   context.Context // lives for one Import
	tx    *database.Tx
	plan  *Plan
	actor string
	// touched are the tenants that changed; catalogue that products did.
	touched   map[string]*touched
	catalogue bool

	prepared map[string]*sql.Stmt // by statement: files can be long
}

func (w *writer) close() {
	for _, statement := range w.prepared {
		_ = statement.Close() // the transaction ends too
	}
}

func (w *writer) prepare(statement string) (*sql.Stmt, error) {
	if known := w.prepared[statement]; known != nil {
		return known, nil
	}
	made, err := w.tx.PrepareContext(w.ctx, statement)
	if err != nil {
		return nil, err
	}
	w.prepared[statement] = made
	return made, nil
}

// exec runs a statement.
func (w *writer) exec(statement string, args ...any) error {
	made, err := w.prepare(statement) //nolint:sqlclosecheck // close does it
	if err == nil {
		_, err = made.ExecContext(w.ctx, args...)
	}
	return err
}

// touched is what changed in a tenant.
type touched struct {
	id      int64
	roles   bool
	members []string // user ids
}

// apply writes the changes in an order in which every reference is there: what
// is new from the catalogue down, and then what goes, from the members up.
func (w *writer) apply() error {
	w.touched = map[string]*touched{}
	operated, managed, err := w.watch()
	if err != nil {
		return err
	}
	for _, actions := range [][]string{
		{productCreated, featureCreated, featureUpdated},
		{tenantCreated, tenantUpdated},
		{roleCreated},
		{parentsChanged},
		{permissionsChanged},
		{memberAdded, memberUpdated, memberRemoved},
		{roleDeleted},
		{featureDeleted},
		{productDeleted},
	} {
		for _, c := range w.plan.Changes {
			if !slices.Contains(actions, c.Action) {
				continue
			}
			if err := w.write(c); err != nil {
				return fmt.Errorf("import: %s: %w", c.Lines()[0], err)
			}
		}
	}
	if err := w.touch(); err != nil {
		return err
	}
	return w.stillManaged(operated, managed)
}

// write writes one change with its audit row.
func (w *writer) write(c Change) error {
	switch c.Action {
	case productCreated, productDeleted, featureCreated, featureUpdated, featureDeleted:
		w.catalogue = true
		return w.writeCatalogue(c)
	case tenantCreated:
		return w.createTenant(c)
	}
	t := w.plan.after.Tenants[c.Tenant]
	seen := w.touched[c.Tenant]
	if seen == nil {
		seen = &touched{id: t.id}
		w.touched[c.Tenant] = seen
	}
	switch c.Action {
	case memberAdded, memberUpdated, memberRemoved:
		user, err := w.writeMember(t, c)
		seen.members = append(seen.members, user)
		return err
	case tenantUpdated:
		seen.roles = true
		return w.setStatus(t, c)
	}
	seen.roles = true
	return w.writeRole(t, c)
}

const (
	insertProduct = `INSERT INTO products (name, created_at, updated_at) VALUES ($1, $2, $2) RETURNING id`
	insertFeature = `INSERT INTO features (product_id, name, actions, created_at, updated_at) VALUES ($1, $2, $3, $4, $4) RETURNING id`
	setFeature    = `UPDATE features SET actions = $1, updated_at = $2 WHERE id = $3`
	deleteGrants  = `DELETE FROM role_feature_permissions WHERE feature_id = $1 AND action = $2`
	deleteFeature = `DELETE FROM features WHERE id = $1`
	deleteProduct = `DELETE FROM products WHERE id = $1`
)

// writeCatalogue writes a change of products or features.
func (w *writer) writeCatalogue(c Change) error {
	product, before := w.plan.after.Products[c.Product], w.plan.before.Products[c.Product]
	switch c.Action {
	case productCreated:
		if err := w.insert(&product.id, insertProduct, c.Product, w.tx.NowMS()); err != nil {
			return err
		}
		return w.audit(0, c.Action, target("product", product.id), map[string]any{"name": c.Product})
	case productDeleted:
		return w.execAudited(0, c.Action, target("product", before.id), map[string]any{"name": c.Product}, deleteProduct, before.id)
	case featureCreated:
		feature := product.Features[c.Feature]
		if err := w.insert(&feature.id, insertFeature, product.id, c.Feature, strings.Join(feature.actions(), ","), w.tx.NowMS()); err != nil {
			return err
		}
		return w.audit(0, c.Action, target("feature", feature.id), map[string]any{"product": c.Product, "name": c.Feature, "actions": feature.actions()})
	case featureDeleted:
		id := before.Features[c.Feature].id
		return w.execAudited(0, c.Action, target("feature", id), map[string]any{"product": c.Product, "name": c.Feature}, deleteFeature, id)
	}
	return w.updateFeature(c, before.Features[c.Feature], product.Features[c.Feature])
}

const selectActions = `SELECT actions FROM features WHERE id = $1`

// updateFeature changes the actions of a feature. Those that stay keep their
// places; grants of those that go, go with them.
func (w *writer) updateFeature(c Change, before, after *Feature) error {
	var list string
	if err := w.tx.QueryRowContext(w.ctx, selectActions, after.id).Scan(&list); err != nil {
		return fmt.Errorf("read feature: %w", err)
	}
	kept, _ := permission.ParseActions(list) // what can't be named can't be granted
	kept = slices.DeleteFunc(kept, func(action string) bool { return !slices.Contains(after.actions(), action) })
	for _, action := range after.actions() {
		if !slices.Contains(kept, action) {
			kept = append(kept, action)
		}
	}
	for _, action := range c.Removed {
		if err := w.exec(deleteGrants, after.id, action); err != nil {
			return fmt.Errorf("delete grants: %w", err)
		}
	}
	type feature struct {
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	detail := map[string]any{"product": c.Product, "from": feature{c.Feature, before.actions()}, "to": feature{c.Feature, kept}}
	return w.execAudited(0, c.Action, target("feature", after.id), detail, setFeature, strings.Join(kept, ","), w.tx.NowMS(), after.id)
}

const (
	insertTenant = `INSERT INTO tenants (name, status, created_at, updated_at) VALUES ($1, $2, $3, $3) RETURNING id`
	setStatus    = `UPDATE tenants SET status = $1, updated_at = $2 WHERE id = $3`
)

func (w *writer) createTenant(c Change) error {
	t := w.plan.after.Tenants[c.Tenant]
	if err := w.insert(&t.id, insertTenant, c.Tenant, t.Status, w.tx.NowMS()); err != nil {
		return err
	}
	w.touched[c.Tenant] = &touched{id: t.id, roles: true}
	return w.audit(t.id, c.Action, target("tenant", t.id), map[string]any{"name": c.Tenant})
}

func (w *writer) setStatus(t *Tenant, c Change) error {
	type tenant struct {
		ID     int64  `json:"id"`
		Name   string `json:"name"`
		Status string `json:"status"`
	}
	detail := map[string]any{"from": tenant{t.id, c.Tenant, c.From}, "to": tenant{t.id, c.Tenant, c.To}}
	return w.execAudited(t.id, c.Action, target("tenant", t.id), detail, setStatus, c.To, w.tx.NowMS(), t.id)
}

const (
	insertRole = `INSERT INTO roles (tenant_id, name, kind, created_at, updated_at) VALUES ($1, $2, $3, $4, $4) RETURNING id`
	deleteRole = `DELETE FROM roles WHERE tenant_id = $1 AND id = $2`
	// What still inherits from a role that goes, goes too.
	deleteParents = `DELETE FROM role_parents WHERE tenant_id = $1 AND (role_id = $2 OR parent_id = $2)`
	insertParent  = `INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES ($1, $2, $3)`
	deleteParent  = `DELETE FROM role_parents WHERE tenant_id = $1 AND role_id = $2 AND parent_id = $3`
	// The row can be there: of an action that the feature did not have (see Load).
	insertGrant    = `INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	deleteGrant    = `DELETE FROM role_feature_permissions WHERE role_id = $1 AND feature_id = $2 AND action = $3`
	insertWildcard = `INSERT INTO role_wildcards (role_id, product_id, feature_id, action) VALUES ($1, $2, $3, $4)`
	deleteWildcard = `DELETE FROM role_wildcards
		WHERE role_id = $1 AND COALESCE(product_id, 0) = $2 AND COALESCE(feature_id, 0) = $3 AND COALESCE(action, '') = $4`
)

// writeRole writes a change of a role.
func (w *writer) writeRole(t *Tenant, c Change) error {
	switch c.Action {
	case roleCreated:
		role, kind := t.Roles[c.Role], "custom"
		if role.Owner {
			kind = "owner"
		}
		if err := w.insert(&role.id, insertRole, t.id, c.Role, kind, w.tx.NowMS()); err != nil {
			return err
		}
		return w.audit(t.id, c.Action, target("role", role.id), map[string]any{"name": c.Role})
	case roleDeleted:
		id := w.plan.before.Tenants[c.Tenant].Roles[c.Role].id
		if err := w.exec(deleteParents, t.id, id); err != nil {
			return err
		}
		return w.execAudited(t.id, c.Action, target("role", id), map[string]any{"name": c.Role}, deleteRole, t.id, id)
	case parentsChanged:
		return w.writeParents(t, c)
	}
	return w.writePermissions(t, c)
}

func (w *writer) writeParents(t *Tenant, c Change) error {
	id := t.Roles[c.Role].id
	for _, name := range c.Removed {
		parent := w.plan.before.Tenants[c.Tenant].Roles[name]
		if err := w.exec(deleteParent, t.id, id, parent.id); err != nil {
			return err
		}
	}
	for _, name := range c.Added {
		if err := w.exec(insertParent, t.id, id, t.Roles[name].id); err != nil {
			return err
		}
	}
	return w.audit(t.id, c.Action, target("role", id), map[string]any{"role": c.Role, "added": c.Added, "removed": c.Removed})
}

// right is a permission in an audit row.
type right struct {
	Product string `json:"product"`
	Feature string `json:"feature"`
	Action  string `json:"action"`
}

func (w *writer) writePermissions(t *Tenant, c Change) error {
	id := t.Roles[c.Role].id
	each := func(texts []string, products map[string]*Product, f func(roleID int64, row permission.Pattern, products map[string]*Product) error) ([]right, error) {
		var rights []right
		for _, text := range texts {
			row, err := permission.ParsePattern(text)
			if err == nil {
				err = f(id, row, products)
			}
			if err != nil {
				return nil, err
			}
			rights = append(rights, right(row))
		}
		return rights, nil
	}
	removed, err := each(c.Removed, w.plan.before.Products, w.revoke)
	if err != nil {
		return err
	}
	added, err := each(c.Added, w.plan.after.Products, w.grant)
	if err != nil {
		return err
	}
	return w.audit(t.id, c.Action, target("role", id), map[string]any{"role": c.Role, "added": added, "removed": removed})
}

// ids returns the ids of the product and the feature that a row names, 0 for any.
func ids(row permission.Pattern, products map[string]*Product) (product, feature int64) {
	p := products[row.Product]
	if p == nil {
		return 0, 0
	}
	if f := p.Features[row.Feature]; f != nil {
		feature = f.id
	}
	return p.id, feature
}

func (w *writer) grant(roleID int64, row permission.Pattern, products map[string]*Product) error {
	product, feature := ids(row, products)
	if !row.Wildcard() {
		return w.exec(insertGrant, roleID, feature, row.Action)
	}
	return w.exec(insertWildcard, roleID,
		sql.NullInt64{Int64: product, Valid: product != 0}, sql.NullInt64{Int64: feature, Valid: feature != 0},
		sql.NullString{String: row.Action, Valid: row.Action != permission.Any})
}

func (w *writer) revoke(roleID int64, row permission.Pattern, products map[string]*Product) error {
	product, feature := ids(row, products)
	if !row.Wildcard() {
		return w.exec(deleteGrant, roleID, feature, row.Action)
	}
	action := row.Action
	if action == permission.Any {
		action = ""
	}
	return w.exec(deleteWildcard, roleID, product, feature, action)
}

const (
	setMember    = `UPDATE memberships SET role_id = $1, updated_at = $2 WHERE tenant_id = $3 AND user_id = $4`
	deleteMember = `DELETE FROM memberships WHERE tenant_id = $1 AND user_id = $2`
)

// writeMember writes a change of a member and returns the user's id.
func (w *writer) writeMember(t *Tenant, c Change) (userID string, err error) {
	if c.Action == memberRemoved {
		userID = w.plan.before.Tenants[c.Tenant].Members[c.User].userID
		return userID, w.execAudited(t.id, c.Action, target("user", userID), nil, deleteMember, t.id, userID)
	}
	member := t.Members[c.User]
	role := t.Roles[member.Role].id
	if c.Action == memberUpdated {
		return member.userID, w.execAudited(t.id, c.Action, target("user", member.userID), map[string]any{"from": c.From, "to": c.To},
			setMember, role, w.tx.NowMS(), t.id, member.userID)
	}
	if err := identity.InsertMembership(w.ctx, w.tx, t.id, member.userID, role); err != nil {
		return "", err
	}
	return member.userID, w.audit(t.id, c.Action, target("user", member.userID), map[string]any{"role": c.To})
}

// insert runs a statement that returns the id of a new row.
func (w *writer) insert(id *int64, statement string, args ...any) error {
	made, err := w.prepare(statement) //nolint:sqlclosecheck // close does it
	if err != nil {
		return err
	}
	return made.QueryRowContext(w.ctx, args...).Scan(id)
}

// execAudited runs a statement and records it.
func (w *writer) execAudited(tenantID int64, action, target string, detail any, statement string, args ...any) error {
	if err := w.exec(statement, args...); err != nil {
		return err
	}
	return w.audit(tenantID, action, target, detail)
}

func (w *writer) audit(tenantID int64, action, target string, detail any) error {
	return identity.RecordAudit(w.ctx, w.tx, identity.AuditEvent{TenantID: tenantID, ActorID: w.actor, Action: action, Target: target, Detail: detail})
}

// target names what an audit row is about.
func target[T int64 | string](kind string, id T) string { return fmt.Sprintf("%s/%v", kind, id) }

// touch tells the gateways what to read anew.
func (w *writer) touch() error {
	if w.catalogue { // everything, so there is no need to name tenants
		return permission.TouchCatalogue(w.ctx, w.tx)
	}
	for _, name := range sorted(w.touched) {
		t := w.touched[name]
		var err error
		switch {
		case t.roles && len(t.members) == 0:
			err = permission.TouchRoles(w.ctx, w.tx, t.id)
		case !t.roles && len(t.members) < manyMembers:
			for _, user := range t.members {
				if err = permission.TouchMember(w.ctx, w.tx, t.id, user); err != nil {
					return err
				}
			}
		default:
			err = permission.Touch(w.ctx, w.tx, t.id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// watch tells whether the installation has somebody who runs it, and which of
// the tenants that the plan changes have somebody who manages their members.
func (w *writer) watch() (operated bool, managed map[string]bool, err error) {
	if operated, err = permission.Operated(w.ctx, w.tx); err != nil {
		return false, nil, err
	}
	managed = map[string]bool{}
	for _, c := range w.plan.Changes {
		before := w.plan.before.Tenants[c.Tenant]
		if _, done := managed[c.Tenant]; done || before == nil {
			continue
		}
		if managed[c.Tenant], err = permission.Managed(w.ctx, w.tx, before.id); err != nil {
			return false, nil, err
		}
	}
	return operated, managed, nil
}

// stillManaged returns [ErrLastHolder] if somebody was in charge who is no more.
func (w *writer) stillManaged(operated bool, managed map[string]bool) error {
	stillOperated, stillManaged, err := w.watch()
	if err != nil {
		return err
	}
	if operated && !stillOperated {
		return fmt.Errorf("%w: no active member of an active tenant would hold %s: give it to somebody else first", ErrLastHolder, permission.RunInstallation)
	}
	for _, name := range sorted(managed) {
		if managed[name] && !stillManaged[name] {
			return fmt.Errorf("%w: no active member of %s would hold %s: give it to somebody else first", ErrLastHolder, name, permission.ManageMembers)
		}
	}
	return nil
}
