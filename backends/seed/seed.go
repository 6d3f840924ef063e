// Package seed fills an empty database: with the demo installation that
// `tenantgate dev` shows and that the end-to-end tests walk through, or with the
// first tenant and user of a real one.
package seed

import (
	"context"
	"fmt"
	"strings"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// Password is the password of all demo users. Everybody knows it: the demo must
// not be reachable by strangers.
const Password = "correct horse battery staple"

// Hasher computes the PHC string of a password. *password.Hasher implements it.
type Hasher interface {
	Hash(ctx context.Context, password string) (phc string, err error)
}

// The demo: two tenants that look the same, so that anything that leaks from
// one to the other is seen.
var (
	tenants  = [...]string{"acme", "globex"} // ids 1 and 2
	roles    = [...]string{"Admin", "Editor", "Viewer"}
	products = [...]product{{"abc", []string{"dashboard", "reports", "billing", "invitations"}}, builtIn}
)

// builtIn is the gateway's own product, whose rights guard the APIs.
var builtIn = product{"tenantgate", []string{"tenant", "members", "roles", "permissions", "platform"}}

type product struct {
	name     string
	features []string
}

// Demo fills db with the demo installation: tenants 1 acme and 2 globex, each
// with the users admin@, editor@ and viewer@<tenant>.test. It does nothing if
// the database holds any tenant, so a second start keeps what was changed. All
// of it is one transaction: there is never half a demo.
func Demo(ctx context.Context, db *database.DB, hasher Hasher) error {
	_, err := AddDemo(ctx, db, hasher)
	return err
}

// AddDemo is [Demo] and reports whether it added anything.
func AddDemo(ctx context.Context, db *database.DB, hasher Hasher) (added bool, err error) {
	empty, err := isEmpty(ctx, db.Reader())
	if err != nil || !empty {
		return false, err
	}
	// Hashing is slow and must not hold the store's writer.
	hashes := make([]string, len(tenants)*len(roles))
	for i := range hashes {
		if hashes[i], err = hasher.Hash(ctx, Password); err != nil {
			return false, fmt.Errorf("seed: %w", err)
		}
	}
	err = db.InTx(ctx, func(tx *database.Tx) (err error) {
		added, err = insertDemo(ctx, tx, hashes)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("seed: %w", err)
	}
	return added, nil
}

// insertDemo stores the demo and reports whether it did: the lock keeps other
// processes out, and one of them may have been faster.
func insertDemo(ctx context.Context, tx *database.Tx, hashes []string) (added bool, err error) {
	if err := permission.Lock(ctx, tx); err != nil {
		return false, err
	}
	if empty, err := isEmpty(ctx, tx); err != nil || !empty {
		return false, err
	}
	catalogue, err := insertCatalogue(ctx, tx, products[:])
	if err != nil {
		return false, err
	}
	for i, name := range tenants {
		if err := insertTenant(ctx, tx, int64(i+1), name, catalogue, hashes[i*len(roles):]); err != nil {
			return false, err
		}
	}
	for i := range tenants { // after the others, whose ids are in the documentation
		if err := insertOwner(ctx, tx, int64(i+1)); err != nil {
			return false, err
		}
	}
	if err := tx.ReserveIDs(ctx, "tenants", int64(len(tenants))); err != nil {
		return false, err
	}
	return true, permission.TouchCatalogue(ctx, tx)
}

const noTenant = `SELECT NOT EXISTS (SELECT 1 FROM tenants)`

func isEmpty(ctx context.Context, q identity.Queryer) (empty bool, err error) {
	if err := q.QueryRowContext(ctx, noTenant).Scan(&empty); err != nil {
		return false, fmt.Errorf("look for tenants: %w", err)
	}
	return empty, nil
}

// feature is a row of the catalogue.
type feature struct {
	id            int64
	product, name string
}

const (
	// The product may be there without a tenant: somebody prepared the catalogue.
	insertProduct = `INSERT INTO products (name, created_at, updated_at) VALUES ($1, $2, $2)
		ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id`
	insertFeature = `INSERT INTO features (product_id, name, created_at, updated_at) VALUES ($1, $2, $3, $3)
		ON CONFLICT (product_id, name) DO UPDATE SET name = excluded.name RETURNING id`
)

func insertCatalogue(ctx context.Context, tx *database.Tx, products []product) ([]feature, error) {
	var all []feature
	for _, p := range products {
		var productID int64
		if err := tx.QueryRowContext(ctx, insertProduct, p.name, tx.NowMS()).Scan(&productID); err != nil {
			return nil, fmt.Errorf("product %s: %w", p.name, err)
		}
		for _, name := range p.features {
			f := feature{product: p.name, name: name}
			if err := tx.QueryRowContext(ctx, insertFeature, productID, name, tx.NowMS()).Scan(&f.id); err != nil {
				return nil, fmt.Errorf("feature %s/%s: %w", p.name, name, err)
			}
			all = append(all, f)
		}
	}
	return all, nil
}

const (
	insertTenantRow = `INSERT INTO tenants (id, name, created_at, updated_at) VALUES ($1, $2, $3, $3)`
	insertRole      = `INSERT INTO roles (tenant_id, name, created_at, updated_at) VALUES ($1, $2, $3, $3) RETURNING id`
	insertOwnerRole = `INSERT INTO roles (tenant_id, name, kind, created_at, updated_at) VALUES ($1, $2, 'owner', $3, $3)`
	insertGrant     = `INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES ($1, $2, $3)`
)

func insertTenant(ctx context.Context, tx *database.Tx, id int64, name string, catalogue []feature, hashes []string) error {
	if _, err := tx.ExecContext(ctx, insertTenantRow, id, name, tx.NowMS()); err != nil {
		return fmt.Errorf("tenant %s: %w", name, err)
	}
	for i, role := range roles {
		var roleID int64
		if err := tx.QueryRowContext(ctx, insertRole, id, role, tx.NowMS()).Scan(&roleID); err != nil {
			return fmt.Errorf("role %s: %w", role, err)
		}
		for _, f := range catalogue {
			for _, action := range granted(id, role, f) {
				if _, err := tx.ExecContext(ctx, insertGrant, roleID, f.id, action); err != nil {
					return fmt.Errorf("grant %s/%s/%s: %w", f.product, f.name, action, err)
				}
			}
		}
		if err := insertMember(ctx, tx, id, roleID, role, name, hashes[i]); err != nil {
			return err
		}
	}
	return nil
}

// OwnerRole is the name of the built-in role that every tenant has. Nobody has
// it at first: who may run the installation can give it.
const OwnerRole = "Owner"

func insertOwner(ctx context.Context, tx *database.Tx, tenantID int64) error {
	if _, err := tx.ExecContext(ctx, insertOwnerRole, tenantID, OwnerRole, tx.NowMS()); err != nil {
		return fmt.Errorf("role %s: %w", OwnerRole, err)
	}
	return nil
}

// granted returns what a role of the demo may do with a feature. The first
// tenant's Admin runs the installation.
func granted(tenantID int64, role string, f feature) []string {
	own := f.product == "tenantgate"
	switch {
	case own && f.name == "platform" && tenantID != 1, own && role != "Admin":
		return nil
	case role == "Viewer":
		return []string{permission.Read}
	case role == "Editor":
		return []string{permission.Read, permission.Write}
	}
	return []string{permission.Read, permission.Write, permission.Delete}
}

// insertMember adds the demo user of a role, such as admin@acme.test.
func insertMember(ctx context.Context, tx *database.Tx, tenantID, roleID int64, role, tenant, hash string) error {
	name := strings.ToLower(role)
	address := name + "@" + tenant + ".test"
	key, err := identity.EmailKey(address)
	if err != nil {
		return fmt.Errorf("user %s: %w", address, err)
	}
	user := identity.User{
		ID: identity.NewID(), Email: address, EmailKey: key, Name: role + " of " + tenant, PasswordHash: hash, Status: identity.StatusActive,
	}
	if err := identity.InsertUser(ctx, tx, user); err != nil {
		return err
	}
	return identity.InsertMembership(ctx, tx, tenantID, user.ID, roleID)
}
