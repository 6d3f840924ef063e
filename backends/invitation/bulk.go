package invitation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// The bounds of POST /api/invitations/bulk/: items, and bytes of the body.
const (
	maxBulk     = 100
	maxBulkBody = 512 << 10
)

// bulkBody is the body of POST /api/invitations/bulk/.
type bulkBody struct {
	Invitations []createBody `json:"invitations"`
	// Atomic: all of them or none.
	Atomic bool `json:"atomic"`
}

// bulkView is the answer: one result for each item, in the order of the items.
type bulkView struct {
	Created int          `json:"created"`
	Failed  int          `json:"failed"`
	Results []bulkResult `json:"results"`
}

// bulkResult is what a create of the item alone would have been answered.
type bulkResult struct {
	Status     int       `json:"status"`
	Invitation *madeView `json:"invitation,omitempty"`
	// Error is a problem as its own response would hold it.
	Error json.RawMessage `json:"error,omitempty"`
}

// errNotCreated ends the transaction of an atomic bulk with a refusal in it.
var errNotCreated = errors.New("an item was refused")

// bulk answers POST /api/invitations/bulk/. The answer is 200 however many of
// the items were refused: each has a status of its own. All are judged in one
// transaction, in order, so that of two items with one address the first wins.
func (s *Service) bulk(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.Require(r, s.write)
	if err != nil {
		return err
	}
	var body bulkBody
	if err := server.DecodeUpTo(r, &body, maxBulkBody); err != nil {
		return err
	}
	if n := len(body.Invitations); n == 0 || n > maxBulk {
		return server.Invalid(problem.Field{Pointer: "/invitations", Code: "wrong-number", Detail: fmt.Sprintf("Give 1 to %d invitations.", maxBulk)})
	}
	var results []bulkItem
	replay, err := s.once(r, caller, "bulk", &body, func(ctx context.Context, tx *database.Tx) (idempotency.Response, error) {
		desk, err := s.openDesk(ctx, tx, caller)
		if err != nil {
			return idempotency.Response{}, err
		}
		if results, err = desk.inviteAll(ctx, &body); err != nil {
			return idempotency.Response{}, err
		}
		return answer(http.StatusOK, "", s.bulkView(results, false))
	})
	if err != nil && !errors.Is(err, errNotCreated) {
		return err
	}
	if replay != nil {
		replay.Write(w)
		return nil
	}
	for i := range results {
		if m := results[i].made; m != nil {
			server.Logger(r.Context()).Info("invitation created", zap.String("invitation_id", m.id))
		}
	}
	s.outbox.wake()
	return server.WriteJSON(w, http.StatusOK, s.bulkView(results, true))
}

// bulkItem is one item's outcome: exactly one of the two.
type bulkItem struct {
	made    *made
	refusal *problem.Error
}

// inviteAll invites each in turn. The error is errNotCreated, with the
// outcomes, if one was refused and so all must be; a failure that is no refusal
// comes back as it is.
func (d *desk) inviteAll(ctx context.Context, body *bulkBody) ([]bulkItem, error) {
	items := make([]bulkItem, len(body.Invitations))
	refused := false
	for i := range body.Invitations {
		b := &body.Invitations[i]
		inv, err := d.s.draft(b, d.caller)
		var m made
		if err == nil {
			m, err = d.invite(ctx, inv, b.Role)
		}
		var refusal *problem.Error
		switch {
		case err == nil:
			items[i].made = &m
		case errors.As(err, &refusal):
			items[i].refusal, refused = refusal, true
		default:
			return nil, err
		}
	}
	if !refused || !body.Atomic {
		return items, nil
	}
	for i := range items {
		if items[i].made != nil {
			items[i] = bulkItem{refusal: problem.New(http.StatusFailedDependency, "not-created", "Another invitation of this request was refused, and all or none were wanted.")}
		}
	}
	return items, errNotCreated
}

// bulkView returns the answer, with the tokens that the caller gets or without.
func (s *Service) bulkView(items []bulkItem, tokens bool) bulkView {
	v := bulkView{Results: make([]bulkResult, len(items))}
	for i := range items {
		if e := items[i].refusal; e != nil {
			v.Failed++
			v.Results[i] = bulkResult{Status: e.Status, Error: e.Body("")}
			continue
		}
		v.Created++
		m := *items[i].made
		if !tokens {
			m.token = ""
		}
		shown := s.madeView(&m)
		v.Results[i] = bulkResult{Status: http.StatusCreated, Invitation: &shown}
	}
	return v
}
