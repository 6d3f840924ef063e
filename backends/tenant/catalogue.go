package tenant

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// The catalogue of products and features belongs to the installation, not to a
// tenant: its tables have no tenant_id.

// catalogue is which actions there are, by product and feature.
type catalogue map[string]map[string][]string

const selectCatalogue = `SELECT p.name, COALESCE(f.name, ''), COALESCE(f.actions, '') FROM products p LEFT JOIN features f ON f.product_id = p.id`

func loadCatalogue(ctx context.Context, q identity.Queryer) (catalogue, error) {
	type row struct{ product, feature, actions string }
	rows, err := query(ctx, q, func(rows *sql.Rows) (f row, err error) {
		err = rows.Scan(&f.product, &f.feature, &f.actions)
		return f, err
	}, selectCatalogue)
	if err != nil {
		return nil, err
	}
	c := catalogue{}
	for _, f := range rows {
		if c[f.product] == nil {
			c[f.product] = map[string][]string{}
		}
		if f.feature != "" {
			c[f.product][f.feature] = strings.Split(f.actions, ",")
		}
	}
	return c, nil
}

// has reports whether the catalogue has what a pattern names. An action of many
// features must be one that every feature starts with or that one of them has.
func (c catalogue) has(p permission.Pattern) bool {
	features, ok := c[p.Product]
	if p.Product != permission.Any && !ok {
		return false
	}
	if p.Feature != permission.Any {
		actions, ok := features[p.Feature]
		return ok && (p.Action == permission.Any || slices.Contains(actions, p.Action))
	}
	if p.Action == permission.Any || slices.Contains(completeActions(nil), p.Action) {
		return true
	}
	for product, features := range c {
		for _, actions := range features {
			if (p.Product == permission.Any || p.Product == product) && slices.Contains(actions, p.Action) {
				return true
			}
		}
	}
	return false
}

// grantAll gives a role every right of the catalogue but those of the platform.
func grantAll(ctx context.Context, tx *edit, tenantID, roleID int64) error {
	all, err := loadCatalogue(ctx, tx)
	if err != nil {
		return err
	}
	for product, features := range all {
		for feature, actions := range features {
			if product == builtInProduct && feature == featurePlatform {
				continue
			}
			for _, action := range actions {
				if err := addRight(ctx, tx, tenantID, roleID, right{product, feature, action}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// productBody is a product in a response.
type productBody struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	CreatedAt timestamp `json:"created_at"`
	UpdatedAt timestamp `json:"updated_at"`
}

func scanProduct(row scanner) (p productBody, err error) {
	err = row.Scan(&p.ID, &p.Name, &p.CreatedAt, &p.UpdatedAt)
	return p, err
}

const (
	productColumns = `SELECT id, name, created_at, updated_at FROM products`
	selectProducts = productColumns + ` WHERE id > $1 ORDER BY id LIMIT $2`
	selectProduct  = productColumns + ` WHERE id = $1`
)

func findProduct(ctx context.Context, q identity.Queryer, id int64) (productBody, error) {
	p, err := scanProduct(q.QueryRowContext(ctx, selectProduct, id))
	return p, found(err)
}

// changeableProduct returns a product that is not the gateway's own.
func changeableProduct(ctx context.Context, tx *edit, id int64) (productBody, error) {
	p, err := findProduct(ctx, tx, id)
	if err == nil && p.Name == builtInProduct {
		err = problem.New(http.StatusConflict, "built-in", "The product "+builtInProduct+" guards this very API and stays as it is.")
	}
	return p, err
}

// listProducts answers GET /api/products/.
func (s *Service) listProducts(w http.ResponseWriter, r *http.Request, _ server.Caller) error {
	limit, after, err := parseIDPage(r)
	if err != nil {
		return err
	}
	scan := func(rows *sql.Rows) (productBody, error) { return scanProduct(rows) }
	all, err := query(r.Context(), s.config.DB.Reader(), scan, selectProducts, after, limit+1)
	if err != nil {
		return err
	}
	return writeList(w, r, all, limit, func(p productBody) string { return strconv.FormatInt(p.ID, 10) })
}

// getProduct answers GET /api/products/{id}/.
func (s *Service) getProduct(w http.ResponseWriter, r *http.Request, _ server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	p, err := findProduct(r.Context(), s.config.DB.Reader(), id)
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, p)
}

// decodeName reads the body of a request that names a product.
func decodeName(r *http.Request) (string, error) {
	var in struct {
		Name string `json:"name"`
	}
	if err := server.Decode(r, &in); err != nil {
		return "", err
	}
	var f fault
	f.name("/name", in.Name)
	return in.Name, f.problem()
}

const insertProduct = `INSERT INTO products (name, created_at, updated_at) VALUES ($1, $2, $2) RETURNING id, name, created_at, updated_at`

// createProduct answers POST /api/products/.
func (s *Service) createProduct(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	name, err := decodeName(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	var created productBody
	err = s.change(r, c, func(tx *edit) (_ *event, err error) {
		if created, err = scanProduct(tx.QueryRowContext(ctx, insertProduct, name, tx.NowMS())); err != nil {
			return nil, fmt.Errorf("insert product: %w", err)
		}
		return &event{action: "product.created", target: target("product", created.ID), detail: map[string]string{"name": name}}, nil
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/products/"+strconv.FormatInt(created.ID, 10)+"/")
	return server.WriteTagged(w, r, http.StatusCreated, created)
}

const setProductName = `UPDATE products SET name = $1, updated_at = $2 WHERE id = $3 RETURNING id, name, created_at, updated_at`

// renameProduct answers PATCH /api/products/{id}/. Gateways name products in
// their configuration: there the old name is unknown from then on.
func (s *Service) renameProduct(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	name, err := decodeName(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	var after productBody
	err = s.change(r, c, func(tx *edit) (*event, error) {
		before, err := changeableProduct(ctx, tx, id)
		if err == nil {
			err = tx.unchanged(before)
		}
		if err != nil {
			return nil, err
		}
		if after = before; before.Name == name {
			return nil, nil
		}
		after, err = scanProduct(tx.QueryRowContext(ctx, setProductName, name, tx.NowMS(), id))
		return &event{action: "product.renamed", target: target("product", id), detail: map[string]string{"from": before.Name, "to": name}}, err
	})
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
}

const deleteProduct = `DELETE FROM products WHERE id = $1`

// deleteProduct answers DELETE /api/products/{id}/. Its features and all
// tenants' grants of them go with it.
func (s *Service) deleteProduct(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	ctx := r.Context()
	err = s.change(r, c, func(tx *edit) (*event, error) {
		before, err := changeableProduct(ctx, tx, id)
		if err == nil {
			err = tx.unchanged(before)
		}
		if err != nil {
			return nil, err
		}
		_, err = tx.ExecContext(ctx, deleteProduct, id)
		return &event{action: "product.deleted", target: target("product", id), detail: map[string]string{"name": before.Name}}, err
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// completeActions returns the actions of a feature: read, write and delete,
// then the others in the order given.
func completeActions(extra []string) []string {
	actions := []string{permission.Read, permission.Write, permission.Delete}
	for _, a := range extra {
		if !slices.Contains(actions, a) {
			actions = append(actions, a)
		}
	}
	return actions
}
