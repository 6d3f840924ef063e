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

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// createBody is the body of POST /api/invitations/.
type createBody struct {
	Email    string   `json:"email"`
	Tenant   *int64   `json:"tenant"`
	Role     *string  `json:"role"`
	Name     string   `json:"name"`
	Metadata metadata `json:"metadata"`
}

// record returns the invitation that b asks for, and all that is wrong with b.
func (b *createBody) record() (record, []problem.Field) {
	var fields []problem.Field
	key, err := identity.EmailKey(b.Email)
	switch {
	case b.Email == "":
		fields = append(fields, problem.Field{Pointer: "/email", Code: "required", Detail: "Say whom to invite."})
	case err != nil:
		fields = append(fields, problem.Field{Pointer: "/email", Code: "not-an-email", Detail: "Give one bare address, such as name@example.com."})
	}
	if b.Role != nil {
		fields = append(fields, checkText("/role", *b.Role, maxRole)...)
	}
	fields = append(fields, checkText("/name", b.Name, maxName)...)
	fields = append(fields, checkText("/metadata/note", b.Metadata.Note, maxNote)...)
	ip, wrongIP := checkIP("/metadata/ip_address", b.Metadata.IPAddress)
	return record{email: b.Email, emailKey: key, name: b.Name, note: b.Metadata.Note, reportedIP: ip}, append(fields, wrongIP...)
}

// create answers POST /api/invitations/.
func (s *Service) create(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.Require(r, s.write)
	if err != nil {
		return err
	}
	var body createBody
	if err := server.Decode(r, &body); err != nil {
		return err
	}
	// The caller's tenant decides; a body that names another gets the answer
	// that an unknown one gets.
	if body.Tenant != nil && *body.Tenant != caller.TenantID {
		return errNoTenant()
	}
	inv, fields := body.record()
	if len(fields) > 0 {
		return server.Invalid(fields...)
	}
	token, hash, err := newToken(s.config.Random)
	if err != nil {
		return err
	}
	inv.id, inv.tenantID, inv.inviterID, inv.requestIP = identity.NewID(), caller.TenantID, caller.UserID, caller.IP
	err = s.config.DB.InTx(r.Context(), func(tx *database.Tx) error { return s.store(r.Context(), tx, caller, body.Role, inv, hash) })
	if errors.Is(err, database.ErrConflict) { // another create won the race
		pending, findErr := findPending(r.Context(), s.config.DB.Reader(), inv.tenantID, inv.emailKey)
		if findErr == nil {
			return errAlreadyPending(pending)
		}
	}
	if err != nil {
		return err
	}
	server.Logger(r.Context()).Info("invitation created", zap.String("invitation_id", inv.id))
	s.deliver(r.Context(), caller, inv.id, token, hash)
	w.Header().Set("Location", "/api/invitations/"+inv.id+"/")
	return s.show(w, r, http.StatusCreated, inv.tenantID, inv.id)
}

// store checks what only the store knows and inserts inv. roleName nil means
// the role that the settings name. It holds the lock of the permission table, so
// that no role, right or membership that it looked at changes until it is done.
func (s *Service) store(ctx context.Context, tx *database.Tx, caller server.Caller, roleName *string, inv record, hash []byte) error {
	if err := permission.Lock(ctx, tx); err != nil {
		return err
	}
	status, err := tenantStatus(ctx, tx, inv.tenantID)
	switch {
	case errors.Is(err, identity.ErrNotFound):
		return errNoTenant()
	case err != nil:
		return err
	case status != identity.StatusActive:
		return errTenantInactive()
	}
	if inv.roleID, err = s.grantableRole(ctx, tx, caller, roleName); err != nil {
		return err
	}
	if member, err := isMember(ctx, tx, inv.tenantID, inv.emailKey); err != nil {
		return err
	} else if member {
		return errAlreadyMember()
	}
	lapsed, err := expireLapsed(ctx, tx, inv.tenantID, inv.emailKey)
	if err != nil {
		return err
	}
	if lapsed != "" {
		if err := s.audit(ctx, tx, caller, "invitation.expired", lapsed, nil); err != nil {
			return err
		}
	}
	switch pending, err := findPending(ctx, tx, inv.tenantID, inv.emailKey); {
	case err == nil:
		return errAlreadyPending(pending)
	case !errors.Is(err, identity.ErrNotFound):
		return err
	}
	if err := nameInviter(ctx, tx, &inv); err != nil {
		return err
	}
	inv.expiresAt = tx.Now.Add(s.config.Lifetime).UnixMilli()
	if err := insert(ctx, tx, &inv, hash); err != nil {
		return err
	}
	return s.audit(ctx, tx, caller, "invitation.created", inv.id, map[string]any{"email": inv.email, "role_id": inv.roleID})
}

// grantableRole returns the role to invite into, or a problem if there is none
// or the caller lacks a right that it carries.
func (s *Service) grantableRole(ctx context.Context, tx *database.Tx, caller server.Caller, name *string) (int64, error) {
	wanted := s.config.Role
	if name != nil {
		wanted = *name
	}
	book, err := rights.Read(ctx, tx, caller.TenantID)
	if err != nil {
		return 0, err
	}
	role := book.ByName(wanted)
	if role == nil {
		detail := "The tenant has no such role."
		if name == nil {
			detail = fmt.Sprintf("Name a role: the tenant has none called %q.", wanted)
		}
		return 0, server.Invalid(problem.Field{Pointer: "/role", Code: "unknown-role", Detail: detail})
	}
	missing, err := missingRights(ctx, book, caller.UserID, role.ID)
	if err != nil || len(missing) == 0 {
		return role.ID, err
	}
	e := problem.New(http.StatusForbidden, "role-exceeds-yours", "The role carries permissions that you do not have.")
	e.Extra = map[string]any{"missing": missing}
	return 0, e
}

// nameInviter keeps the inviter's name beside the id, because users go. A
// caller whom only an identity provider knows has no row to point at.
func nameInviter(ctx context.Context, tx *database.Tx, inv *record) error {
	user, err := identity.FindUser(ctx, tx, inv.inviterID)
	switch {
	case errors.Is(err, identity.ErrNotFound):
		inv.inviterName, inv.inviterID = plain(inv.inviterID, maxName), ""
	case err != nil:
		return err
	case plain(user.Name, maxName) != "":
		inv.inviterName = plain(user.Name, maxName)
	default:
		inv.inviterName = user.Email
	}
	return nil
}

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

// list answers GET /api/invitations/?status=&email=&limit=&after=.
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
	err = s.config.DB.InTx(r.Context(), func(tx *database.Tx) error {
		ok, err := markCancelled(r.Context(), tx, caller.TenantID, id)
		if err != nil {
			return err
		}
		if !ok {
			_, err := stillPending(r.Context(), tx, caller.TenantID, id)
			return cmp.Or(err, errors.New("cancel invitation: it changed in the meantime"))
		}
		return s.audit(r.Context(), tx, caller, "invitation.cancelled", id, nil)
	})
	if err != nil {
		return err
	}
	server.Logger(r.Context()).Info("invitation cancelled", zap.String("invitation_id", id))
	return s.show(w, r, http.StatusOK, caller.TenantID, id)
}

// resend answers POST /api/invitations/{id}/resend/: a new token in a new
// mail and a new expiry. The old link is dead at once.
func (s *Service) resend(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.Require(r, s.write)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if !validID(id) {
		return errNoInvitation()
	}
	token, hash, err := newToken(s.config.Random)
	if err != nil {
		return err
	}
	err = s.config.DB.InTx(r.Context(), func(tx *database.Tx) error {
		expires, notSince := tx.Now.Add(s.config.Lifetime).UnixMilli(), tx.Now.Add(-s.config.Cooldown).UnixMilli()
		ok, err := renew(r.Context(), tx, caller.TenantID, id, hash, expires, notSince)
		if err != nil {
			return err
		}
		if !ok {
			return s.whyNotRenewed(r.Context(), tx, caller.TenantID, id)
		}
		return s.audit(r.Context(), tx, caller, "invitation.resent", id, nil)
	})
	if err != nil {
		return err
	}
	s.deliver(r.Context(), caller, id, token, hash)
	return s.show(w, r, http.StatusOK, caller.TenantID, id)
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

// deliver mails the token of the tenant's invitation id and notes what became of it. A
// failure is shown in the invitation and repaired by a resend; it is not the
// caller's error, because the invitation is stored.
func (s *Service) deliver(ctx context.Context, caller server.Caller, id string, token secret.String, hash []byte) {
	// A caller who hangs up must not leave a mail unsent or its fate unknown.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mailTimeout)
	defer cancel()
	log := server.Logger(ctx).With(zap.String("invitation_id", id))
	state, reason, action := deliverySent, "", "invitation.sent"
	if err := s.send(ctx, caller.TenantID, id, token); err != nil {
		state, reason, action = deliveryFailed, deliveryReason(err), "invitation.delivery_failed"
		log.Warn("invitation mail not sent", zap.String("reason", reason), zap.Error(err))
	}
	noteCtx, cancelNote := context.WithTimeout(context.WithoutCancel(ctx), mailTimeout) // the mail may have used up its time
	defer cancelNote()
	err := s.config.DB.InTx(noteCtx, func(tx *database.Tx) error {
		ok, err := markDelivery(noteCtx, tx, caller.TenantID, id, hash, state, reason)
		if err != nil || !ok {
			return err
		}
		var detail any
		if reason != "" {
			detail = map[string]any{"reason": reason}
		}
		return s.audit(noteCtx, tx, caller, action, id, detail)
	})
	switch {
	case err != nil:
		log.Error("delivery not noted", zap.Error(err))
	case state == deliverySent:
		log.Info("invitation mail sent")
	}
}

// send builds and sends the mail.
func (s *Service) send(ctx context.Context, tenantID int64, id string, token secret.String) error {
	inv, err := find(ctx, s.config.DB.Reader(), tenantID, id)
	if err != nil {
		return err
	}
	m, err := s.mails.invitation(&inv, s.config.PublicURL, token)
	if err != nil {
		return err
	}
	m.From, m.Date = s.config.From, s.config.Clock.Now()
	return s.config.Mail.Send(ctx, m)
}

func (s *Service) nowMS() int64 { return s.config.Clock.Now().UnixMilli() }

// audit records what the caller did to an invitation.
func (s *Service) audit(ctx context.Context, tx *database.Tx, caller server.Caller, action, id string, detail any) error {
	return identity.RecordAudit(ctx, tx, identity.AuditEvent{
		TenantID: caller.TenantID, ActorID: caller.UserID, Action: action, Target: auditTarget(id), Detail: detail,
		RequestIP: caller.IP, TraceID: caller.TraceID,
	})
}

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

// tooMany is a 429 that says when to come back, in whole seconds.
func tooMany(code, detail string, wait time.Duration) error {
	e := problem.New(http.StatusTooManyRequests, code, detail)
	seconds := max(1, int64((wait+time.Second-1)/time.Second))
	e.Header = http.Header{"Retry-After": {strconv.FormatInt(seconds, 10)}}
	return e
}
