package seed

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/backends/tenant"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/password"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// maxUserName is the longest name of a user in code points.
const maxUserName = 100

// ErrNotEmpty is in the chain of the error of [Bootstrap] when the database
// holds a tenant.
var ErrNotEmpty = errors.New("the store holds tenants already: only a new installation is bootstrapped")

// Installation is what [Bootstrap] makes. Name may be empty, and it may be
// anything that fits on a line.
type Installation struct {
	Tenant, Email, Name string
	Password            secret.String
	// Policy is what the password must satisfy.
	Policy password.Policy
}

// Bootstrapped is what [Bootstrap] made.
type Bootstrapped struct {
	TenantID int64  `json:"tenant_id"`
	Tenant   string `json:"tenant"`
	UserID   string `json:"user_id"`
	Email    string `json:"email"`
	Role     string `json:"role"`
}

// CheckEmpty returns [ErrNotEmpty] if the database holds a tenant.
func CheckEmpty(ctx context.Context, q identity.Queryer) error {
	empty, err := isEmpty(ctx, q)
	if err == nil && !empty {
		err = ErrNotEmpty
	}
	return err
}

// CheckNames returns what is wrong with Tenant, Email and Name.
func (in *Installation) CheckNames() error {
	_, err := in.checkNames()
	return err
}

// checkNames returns what is wrong with the names, and the canonical address.
func (in *Installation) checkNames() (emailKey string, err error) {
	if code, detail := tenant.CheckName(in.Tenant); code != "" {
		return "", fmt.Errorf("tenant %q: %s", in.Tenant, detail)
	}
	emailKey, err = identity.EmailKey(in.Email)
	if err != nil {
		return "", fmt.Errorf("e-mail %q: give an address such as ann@example.com", in.Email)
	}
	invisible := func(c rune) bool { return !unicode.IsPrint(c) || c == utf8.RuneError }
	if utf8.RuneCountInString(in.Name) > maxUserName || strings.ContainsFunc(in.Name, invisible) {
		return "", fmt.Errorf("name %q: use one line of at most %d visible characters", in.Name, maxUserName)
	}
	return emailKey, nil
}

// check returns what is wrong, and the canonical address.
func (in *Installation) check() (emailKey string, err error) {
	if emailKey, err = in.checkNames(); err != nil {
		return "", err
	}
	local, _, _ := strings.Cut(in.Email, "@")
	if weak := in.Policy.Check(in.Password.Reveal(), in.Tenant, local, builtIn.name); weak != nil {
		return "", fmt.Errorf("password: %s", weak.Detail)
	}
	return emailKey, nil
}

// Bootstrap makes the first tenant of an installation with a role Admin that
// holds every right of the gateway's own product, the right to run the
// installation included, and a first user with that role. All of it is one
// transaction.
func Bootstrap(ctx context.Context, db *database.DB, hasher Hasher, in Installation) (Bootstrapped, error) {
	key, err := in.check()
	if err != nil {
		return Bootstrapped{}, fmt.Errorf("bootstrap: %w", err)
	}
	if err := CheckEmpty(ctx, db.Reader()); err != nil {
		return Bootstrapped{}, fmt.Errorf("bootstrap: %w", err)
	}
	hash, err := hasher.Hash(ctx, in.Password.Reveal()) // slow: it must not hold the store's writer
	if err != nil {
		return Bootstrapped{}, fmt.Errorf("bootstrap: %w", err)
	}
	made := Bootstrapped{Tenant: in.Tenant, UserID: identity.NewID(), Email: in.Email, Role: adminRole}
	user := identity.User{
		ID: made.UserID, Email: in.Email, EmailKey: key, Name: in.Name, PasswordHash: hash, Status: identity.StatusActive,
	}
	err = db.InTx(ctx, func(tx *database.Tx) error { return made.insert(ctx, tx, user) })
	if errors.Is(err, database.ErrConflict) {
		err = fmt.Errorf("the address %s has an account already: %w", in.Email, err)
	}
	if err != nil {
		return Bootstrapped{}, fmt.Errorf("bootstrap: %w", err)
	}
	return made, nil
}

// adminRole is the role of the first user.
const adminRole = "Admin"

const insertNewTenant = `INSERT INTO tenants (name, created_at, updated_at) VALUES ($1, $2, $2) RETURNING id`

// insert stores the installation and notes the tenant's id.
func (b *Bootstrapped) insert(ctx context.Context, tx *database.Tx, user identity.User) error {
	if err := permission.Lock(ctx, tx); err != nil {
		return err
	}
	if err := CheckEmpty(ctx, tx); err != nil { // another process was faster
		return err
	}
	catalogue, err := insertCatalogue(ctx, tx, []product{builtIn})
	if err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, insertNewTenant, b.Tenant, tx.NowMS()).Scan(&b.TenantID); err != nil {
		return fmt.Errorf("tenant: %w", err)
	}
	var roleID int64
	if err := tx.QueryRowContext(ctx, insertRole, b.TenantID, b.Role, tx.NowMS()).Scan(&roleID); err != nil {
		return fmt.Errorf("role: %w", err)
	}
	if err := insertOwner(ctx, tx, b.TenantID); err != nil {
		return err
	}
	for _, f := range catalogue {
		for _, action := range [...]string{permission.Read, permission.Write, permission.Delete} {
			if _, err := tx.ExecContext(ctx, insertGrant, roleID, f.id, action); err != nil {
				return fmt.Errorf("grant %s/%s/%s: %w", f.product, f.name, action, err)
			}
		}
	}
	if err := identity.InsertUser(ctx, tx, user); err != nil {
		return err
	}
	if err := identity.InsertMembership(ctx, tx, b.TenantID, user.ID, roleID); err != nil {
		return err
	}
	if err := permission.TouchCatalogue(ctx, tx); err != nil {
		return err
	}
	return identity.RecordAudit(ctx, tx, identity.AuditEvent{
		TenantID: b.TenantID, ActorID: user.ID, Action: "tenant.created", Target: fmt.Sprintf("tenant/%d", b.TenantID),
		Detail: map[string]string{"name": b.Tenant, "admin": user.ID},
	})
}
