package invitation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// get answers GET /api/invitations/{id}/.
func (s *Service) get(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.Require(r, s.read)
	if err != nil {
		return err
	}
	return s.show(w, r, http.StatusOK, caller.TenantID, r.PathValue("id"))
}

// show sends the tenant's invitation id as it is now.
func (s *Service) show(w http.ResponseWriter, r *http.Request, status int, tenantID int64, id string) error {
	if !validID(id) {
		return errNoInvitation()
	}
	inv, err := find(r.Context(), s.config.DB.Reader(), tenantID, id)
	if errors.Is(err, identity.ErrNotFound) {
		return errNoInvitation()
	}
	if err != nil {
		return err
	}
	return server.WriteJSON(w, status, inv.view(s.nowMS()))
}

// list answers GET /api/invitations/?status=&email=&created_from=&created_before=&limit=&after=.
func (s *Service) list(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.Require(r, s.read)
	if err != nil {
		return err
	}
	limit, after, err := server.Page(r)
	if err != nil {
		return err
	}
	f, err := parseFilter(r)
	if err != nil {
		return err
	}
	var place *cursor
	if after != "" {
		c, ok := parseCursor(after, f)
		if !ok {
			return server.BadQuery("after", "Give the next_cursor of the previous page, with the same filters.")
		}
		place = &c
	}
	now := s.nowMS()
	records, err := list(r.Context(), s.config.DB.Reader(), caller.TenantID, now, f, place, limit+1)
	if err != nil {
		return err
	}
	page := listView{Items: make([]view, 0, len(records))}
	if len(records) > limit {
		records = records[:limit]
		last := &records[limit-1]
		next := cursor{createdAt: last.createdAt, id: last.id}.encode(f)
		page.NextCursor = &next
		server.LinkNext(w, r, next)
	}
	for i := range records {
		page.Items = append(page.Items, records[i].view(now))
	}
	return server.WriteJSON(w, http.StatusOK, page)
}

func parseFilter(r *http.Request) (filter, error) {
	query := r.URL.Query()
	f := filter{status: query.Get("status")}
	switch f.status {
	case "", statusPending, statusAccepted, statusCancelled, statusExpired:
	default:
		return filter{}, server.BadQuery("status", "Give pending, accepted, cancelled or expired.")
	}
	if email := query.Get("email"); email != "" {
		key, err := identity.EmailKey(email)
		if err != nil {
			return filter{}, server.BadQuery("email", "Give one whole address.")
		}
		f.emailKey = key
	}
	for _, bound := range []struct {
		name string
		ms   *int64
	}{{"created_from", &f.from}, {"created_before", &f.before}} {
		text := query.Get(bound.name)
		if text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil || at.UnixMilli() <= 0 {
			return filter{}, server.BadQuery(bound.name, "Give a time such as 2026-03-01T12:00:00Z.")
		}
		*bound.ms = at.UnixMilli()
	}
	return f, nil
}

// cancel answers POST /api/invitations/{id}/cancel/.
func (s *Service) cancel(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.Require(r, s.write)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if !validID(id) {
		return errNoInvitation()
	}
	err = s.inTx(r.Context(), func(tx *database.Tx) error {
		ok, err := markCancelled(r.Context(), tx, caller.TenantID, id)
		if err != nil {
			return err
		}
		if !ok {
			_, err := stillPending(r.Context(), tx, caller.TenantID, id)
			return cmp.Or(err, errors.New("cancel invitation: it changed in the meantime"))
		}
		return s.happened(r.Context(), tx, caller.TenantID, id, by(caller, "invitation.cancelled", nil), nil)
	})
	if err != nil {
		return err
	}
	server.Logger(r.Context()).Info("invitation cancelled", zap.String("invitation_id", id))
	return s.show(w, r, http.StatusOK, caller.TenantID, id)
}

// resendBody is the optional body of POST /api/invitations/{id}/resend/.
type resendBody struct {
	Deliver *bool `json:"deliver"`
}

// resend answers POST /api/invitations/{id}/resend/: a new token in a new
// mail, or given to the caller, and a new expiry. The old link is dead at once.
func (s *Service) resend(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.Require(r, s.write)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if !validID(id) {
		return errNoInvitation()
	}
	var body resendBody
	if r.ContentLength != 0 {
		if err := server.Decode(r, &body); err != nil {
			return err
		}
	}
	var again made
	replay, err := s.once(r, caller, "resend/"+id, &body, func(ctx context.Context, tx *database.Tx) (idempotency.Response, error) {
		if again, err = s.renew(ctx, tx, caller, id, body.Deliver != nil && !*body.Deliver); err != nil {
			return idempotency.Response{}, err
		}
		return answer(http.StatusOK, "", again.view(tx.NowMS()))
	})
	if err != nil {
		return err
	}
	if replay != nil {
		replay.Write(w)
		return nil
	}
	return s.hand(w, r, http.StatusOK, &again)
}

// renew sends a pending invitation again, or gives its new token to the caller.
// It refuses what an accept of the new token would meet, as far as the caller
// may know it. The lock of the permission table comes first, as everywhere.
func (s *Service) renew(ctx context.Context, tx *database.Tx, caller server.Caller, id string, handOut bool) (again made, err error) {
	if err := permission.Lock(ctx, tx); err != nil {
		return made{}, err
	}
	var hash []byte
	if handOut {
		if err := s.mayHandOut(ctx, tx, caller, id); err != nil {
			return made{}, err
		}
		if again.token, hash, err = newToken(s.config.Random); err != nil {
			return made{}, err
		}
	}
	expires, notSince := tx.Now.Add(s.config.Lifetime).UnixMilli(), tx.Now.Add(-s.config.Cooldown).UnixMilli()
	ok, err := renew(ctx, tx, caller.TenantID, id, hash, expires, notSince)
	if err != nil {
		return made{}, err
	}
	if !ok {
		return made{}, s.whyNotRenewed(ctx, tx, caller.TenantID, id)
	}
	if again.record, err = find(ctx, tx, caller.TenantID, id); err != nil {
		return made{}, err
	}
	if err := s.stillGood(ctx, tx, &again.record); err != nil {
		return made{}, err
	}
	if err := s.takeInvitation(ctx, tx, caller.TenantID, caller.UserID); err != nil {
		return made{}, err
	}
	if handOut {
		err = dequeue(ctx, tx, id)
	} else {
		err = enqueue(ctx, tx, id, caller)
	}
	if err != nil {
		return made{}, err
	}
	if err := s.happened(ctx, tx, caller.TenantID, id, by(caller, "invitation.resent", nil), nil); err != nil {
		return made{}, err
	}
	again.record, err = find(ctx, tx, caller.TenantID, id)
	return again, err
}

func (s *Service) whyNotRenewed(ctx context.Context, tx *database.Tx, tenantID int64, id string) error {
	inv, err := stillPending(ctx, tx, tenantID, id)
	if err != nil {
		return err
	}
	if inv.sendCount >= maxSends {
		return problem.New(http.StatusTooManyRequests, "resend-limit", fmt.Sprintf("This invitation was sent %d times: cancel it and make another.", maxSends))
	}
	wait := time.UnixMilli(inv.updatedAt).Add(s.config.Cooldown).Sub(tx.Now)
	return tooMany("resend-cooldown", "This invitation was sent just now.", wait)
}

// stillPending returns the invitation, or the problem that it is not there or
// no longer pending.
func stillPending(ctx context.Context, tx *database.Tx, tenantID int64, id string) (record, error) {
	inv, err := find(ctx, tx, tenantID, id)
	if errors.Is(err, identity.ErrNotFound) {
		return record{}, errNoInvitation()
	}
	if err != nil {
		return record{}, err
	}
	if status := inv.effective(tx.NowMS()); status != statusPending {
		e := problem.New(http.StatusConflict, "invitation-not-pending", "The invitation is "+status+" and stays so.")
		e.Extra = map[string]any{"invitation_status": status}
		return record{}, e
	}
	return inv, nil
}

func (s *Service) nowMS() int64 { return s.config.Clock.Now().UnixMilli() }

// The refusals below are made in more than one place.

func errNoTenant() error {
	return problem.New(http.StatusNotFound, "tenant-not-found", "There is no such tenant.")
}

func errTenantInactive() error {
	return problem.New(http.StatusConflict, "tenant-inactive", "The tenant is suspended.")
}

func errNoInvitation() error {
	return problem.New(http.StatusNotFound, "invitation-not-found", "There is no such invitation.")
}

func errAlreadyMember() error {
	return problem.New(http.StatusConflict, "already-member", "This address already belongs to a member of the tenant.")
}

func errAlreadyPending(id string) error {
	e := problem.New(http.StatusConflict, "invitation-already-pending", "This address has a pending invitation: resend or cancel it.")
	e.Extra = map[string]any{"invitation_id": id}
	return e
}

func errSeatsFull(seats int64) error {
	e := problem.New(http.StatusConflict, "seats-full", "All seats of the tenant are taken, by members or pending invitations.")
	e.Extra = map[string]any{"seats": seats}
	return e
}

// tooMany is a 429 that says when to come back, in whole seconds.
func tooMany(code, detail string, wait time.Duration) error {
	e := problem.New(http.StatusTooManyRequests, code, detail)
	seconds := max(1, int64((wait+time.Second-1)/time.Second))
	e.Header = http.Header{"Retry-After": {strconv.FormatInt(seconds, 10)}}
	e.Extra = map[string]any{"retry_after": seconds}
	return e
}
