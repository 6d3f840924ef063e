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
)

// featureBody is a feature in a response.
type featureBody struct {
	ID        int64     `json:"id"`
	ProductID int64     `json:"product_id"`
	Name      string    `json:"name"`
	Actions   []string  `json:"actions"`
	CreatedAt timestamp `json:"created_at"`
	UpdatedAt timestamp `json:"updated_at"`
}

func scanFeature(row scanner) (b featureBody, err error) {
	var actions string
	err = row.Scan(&b.ID, &b.ProductID, &b.Name, &actions, &b.CreatedAt, &b.UpdatedAt)
	b.Actions = strings.Split(actions, ",")
	return b, err
}

const (
	featureColumns = `SELECT id, product_id, name, actions, created_at, updated_at FROM features WHERE product_id = $1`
	selectFeatures = featureColumns + ` AND id > $2 ORDER BY id LIMIT $3`
	selectFeature  = featureColumns + ` AND id = $2`
)

func findFeature(ctx context.Context, q identity.Queryer, productID, id int64) (featureBody, error) {
	b, err := scanFeature(q.QueryRowContext(ctx, selectFeature, productID, id))
	return b, found(err)
}

// featureIDs returns the ids in the path of a feature.
func featureIDs(r *http.Request) (productID, id int64, err error) {
	if productID, err = pathID(r, "id"); err != nil {
		return 0, 0, err
	}
	id, err = pathID(r, "feature_id")
	return productID, id, err
}

// listFeatures answers GET /api/products/{id}/features/.
func (s *Service) listFeatures(w http.ResponseWriter, r *http.Request, _ server.Caller) error {
	productID, err := pathID(r, "id")
	if err != nil {
		return err
	}
	limit, after, err := parseIDPage(r)
	if err != nil {
		return err
	}
	reader := s.config.DB.Reader()
	if _, err := findProduct(r.Context(), reader, productID); err != nil {
		return err
	}
	scan := func(rows *sql.Rows) (featureBody, error) { return scanFeature(rows) }
	all, err := query(r.Context(), reader, scan, selectFeatures, productID, after, limit+1)
	if err != nil {
		return err
	}
	return writeList(w, r, all, limit, func(b featureBody) string { return strconv.FormatInt(b.ID, 10) })
}

// getFeature answers GET /api/products/{id}/features/{feature_id}/.
func (s *Service) getFeature(w http.ResponseWriter, r *http.Request, _ server.Caller) error {
	productID, id, err := featureIDs(r)
	if err != nil {
		return err
	}
	b, err := findFeature(r.Context(), s.config.DB.Reader(), productID, id)
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, b)
}

// featureInput is the body of a request that makes or changes a feature.
type featureInput struct {
	Name    *string   `json:"name"`
	Actions *[]string `json:"actions"`
}

// validate checks what is given and completes the actions.
func (in *featureInput) validate() error {
	var f fault
	if in.Name != nil {
		f.name("/name", *in.Name)
	}
	if in.Actions != nil {
		for i, action := range *in.Actions {
			f.name("/actions/"+strconv.Itoa(i), action)
		}
		*in.Actions = completeActions(*in.Actions)
		if len(*in.Actions) > permission.MaxActions {
			f.add("/actions", "too-many", fmt.Sprintf("A feature has at most %d actions, with read, write and delete.", permission.MaxActions))
		}
	}
	return f.problem()
}

const insertFeature = `INSERT INTO features (product_id, name, actions, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)
	RETURNING id, product_id, name, actions, created_at, updated_at`

// createFeature answers POST /api/products/{id}/features/. Nobody holds a right
// on the feature until an operator grants it (see grantToTenant).
func (s *Service) createFeature(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	productID, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in featureInput
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	if in.Name == nil {
		in.Name = new(string)
	}
	if in.Actions == nil {
		in.Actions = &[]string{}
	}
	if err := in.validate(); err != nil {
		return err
	}
	ctx := r.Context()
	var created featureBody
	err = s.change(r, c, func(tx *edit) (*event, error) {
		product, err := changeableProduct(ctx, tx, productID)
		if err != nil {
			return nil, err
		}
		created, err = scanFeature(tx.QueryRowContext(ctx, insertFeature, productID, *in.Name, strings.Join(*in.Actions, ","), tx.NowMS()))
		return &event{
			action: "feature.created", target: target("feature", created.ID),
			detail: map[string]any{"product": product.Name, "name": created.Name, "actions": created.Actions},
		}, err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", fmt.Sprintf("/api/products/%d/features/%d/", productID, created.ID))
	return server.WriteTagged(w, r, http.StatusCreated, created)
}

const (
	setFeature = `UPDATE features SET name = $1, actions = $2, updated_at = $3 WHERE product_id = $4 AND id = $5
		RETURNING id, product_id, name, actions, created_at, updated_at`
	deleteAction = `DELETE FROM role_feature_permissions WHERE feature_id = $1 AND action = $2`
)

// updateFeature answers PATCH /api/products/{id}/features/{feature_id}/. All
// tenants' grants of an action that is taken away go with it.
func (s *Service) updateFeature(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	productID, id, err := featureIDs(r)
	if err != nil {
		return err
	}
	var in featureInput
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	if in.Name == nil && in.Actions == nil {
		in.Name = new(string) // "required"
	}
	if err := in.validate(); err != nil {
		return err
	}
	ctx := r.Context()
	var after featureBody
	err = s.change(r, c, func(tx *edit) (*event, error) {
		if _, err := changeableProduct(ctx, tx, productID); err != nil {
			return nil, err
		}
		before, err := findFeature(ctx, tx, productID, id)
		if err == nil {
			err = tx.unchanged(before)
		}
		if err != nil {
			return nil, err
		}
		after = before
		if in.Name != nil {
			after.Name = *in.Name
		}
		if in.Actions != nil {
			after.Actions = *in.Actions
		}
		if after.Name == before.Name && slices.Equal(after.Actions, before.Actions) {
			return nil, nil
		}
		for _, action := range before.Actions {
			if slices.Contains(after.Actions, action) {
				continue
			}
			if _, err := tx.ExecContext(ctx, deleteAction, id, action); err != nil {
				return nil, fmt.Errorf("delete grants: %w", err)
			}
		}
		after, err = scanFeature(tx.QueryRowContext(ctx, setFeature, after.Name, strings.Join(after.Actions, ","), tx.NowMS(), productID, id))
		return &event{action: "feature.updated", target: target("feature", id), detail: map[string]featureBody{"from": before, "to": after}}, err
	})
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
}

const deleteFeature = `DELETE FROM features WHERE product_id = $1 AND id = $2`

// deleteFeature answers DELETE /api/products/{id}/features/{feature_id}/. All
// tenants' grants of it go with it.
func (s *Service) deleteFeature(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	productID, id, err := featureIDs(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	err = s.change(r, c, func(tx *edit) (*event, error) {
		product, err := changeableProduct(ctx, tx, productID)
		if err != nil {
			return nil, err
		}
		before, err := findFeature(ctx, tx, productID, id)
		if err == nil {
			err = tx.unchanged(before)
		}
		if err != nil {
			return nil, err
		}
		_, err = tx.ExecContext(ctx, deleteFeature, productID, id)
		return &event{action: "feature.deleted", target: target("feature", id), detail: map[string]string{"product": product.Name, "name": before.Name}}, err
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
