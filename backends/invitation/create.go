package invitation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// createBody is the body of POST /api/invitations/, and one item of a bulk.
type createBody struct {
	Email    string   `json:"email"`
	Tenant   *int64   `json:"tenant"`
	Role     *string  `json:"role"`
	Name     string   `json:"name"`
	Locale   string   `json:"locale"`
	Deliver  *bool    `json:"deliver"`
	Metadata metadata `json:"metadata"`
}

// draft returns the invitation that b asks for, or the problem with all that is
// wrong with b.
func (s *Service) draft(b *createBody, caller server.Caller) (record, error) {
	// The caller's tenant decides; a body that names another gets the answer
	// that an unknown one gets.
	if b.Tenant != nil && *b.Tenant != caller.TenantID {
		return record{}, errNoTenant()
	}
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
	locale := ""
	if b.Locale != "" {
		var ok bool
		if locale, ok = s.mails.locale(b.Locale); !ok {
			fields = append(fields, problem.Field{Pointer: "/locale", Code: "unknown-locale", Detail: "Give one of " + strings.Join(s.mails.locales(), ", ") + "."})
		}
	}
	fields = append(fields, checkText("/name", b.Name, maxName)...)
	fields = append(fields, checkText("/metadata/note", b.Metadata.Note, maxNote)...)
	ip, wrongIP := checkIP("/metadata/ip_address", b.Metadata.IPAddress)
	if fields = append(fields, wrongIP...); len(fields) > 0 {
		return record{}, server.Invalid(fields...)
	}
	return record{
		id: identity.NewID(), tenantID: caller.TenantID, email: b.Email, emailKey: key, name: b.Name, note: b.Metadata.Note, reportedIP: ip,
		locale: locale, inviterID: caller.UserID, requestIP: caller.IP, handedOut: b.Deliver != nil && !*b.Deliver,
	}, nil
}

// made is an invitation that was made or sent again, with its token if the
// caller gets it.
type made struct {
	record
	token secret.String
}

// madeView is an invitation with what its mail would have brought.
type madeView struct {
	view
	Token string `json:"token,omitempty"`
	Link  string `json:"link,omitempty"`
}

func (s *Service) madeView(m *made) madeView {
	v := madeView{view: m.view(s.nowMS())}
	if m.token != "" {
		v.Token, v.Link = m.token.Reveal(), link(s.config.PublicURL, m.token)
	}
	return v
}

func (m *made) location() string { return "/api/invitations/" + m.id + "/" }

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
	inv, err := s.draft(&body, caller)
	if err != nil {
		return err
	}
	var created made
	replay, err := s.once(r, caller, "create", &body, func(ctx context.Context, tx *database.Tx) (idempotency.Response, error) {
		desk, err := s.openDesk(ctx, tx, caller)
		if err != nil {
			return idempotency.Response{}, err
		}
		if created, err = desk.invite(ctx, inv, body.Role); err != nil {
			return idempotency.Response{}, err
		}
		return answer(http.StatusCreated, created.location(), created.view(tx.NowMS()))
	})
	if err != nil {
		return err
	}
	if replay != nil {
		replay.Write(w)
		return nil
	}
	server.Logger(r.Context()).Info("invitation created", zap.String("invitation_id", created.id))
	w.Header().Set("Location", created.location())
	return s.hand(w, r, http.StatusCreated, &created)
}

// once runs f in a transaction and keeps its answer for the request's
// Idempotency-Key, or returns the answer that a request with this key got. The
// answer holds no token.
func (s *Service) once(r *http.Request, caller server.Caller, route string, body any,
	f func(context.Context, *database.Tx) (idempotency.Response, error),
) (replay *idempotency.Response, err error) {
	key, err := idempotency.Key(r)
	if err != nil {
		return nil, err
	}
	slot := idempotency.Slot{TenantID: caller.TenantID, CallerID: caller.UserID, Route: "invitations/" + route, Key: key}
	err = s.inTx(r.Context(), func(tx *database.Tx) error {
		replay = nil
		if key != "" {
			var err error
			if replay, err = idempotency.Claim(r.Context(), tx, slot, body); err != nil || replay != nil {
				return err
			}
		}
		response, err := f(r.Context(), tx)
		if err != nil || key == "" {
			return err
		}
		return idempotency.Store(r.Context(), tx, slot, response)
	})
	return replay, err
}

// answer is a response as it is kept.
func answer(status int, location string, v any) (idempotency.Response, error) {
	body, err := json.Marshal(v)
	return idempotency.Response{Status: status, Location: location, Body: append(body, '\n')}, err
}

// hand answers with the invitation: with its token if the caller gets it, else
// after its mail was sent, or was not for as long as a caller should wait.
func (s *Service) hand(w http.ResponseWriter, r *http.Request, status int, m *made) error {
	if m.token != "" {
		return server.WriteJSON(w, status, s.madeView(m))
	}
	s.sendSoon(r.Context(), m.id)
	return s.show(w, r, status, m.tenantID, m.id)
}

// desk is a transaction in which one caller makes invitations, and what all of
// them are judged by. It holds the lock of the permission table, so that no
// role, right or membership that it looks at changes until it is done.
type desk struct {
	s      *Service
	tx     *database.Tx
	caller server.Caller
	tenant identity.TenantLimits
	book   *rights.Book
	own    rights.Set // what the caller holds
}

// openDesk returns the desk of the caller's tenant, or the problem that keeps
// it closed.
func (s *Service) openDesk(ctx context.Context, tx *database.Tx, caller server.Caller) (*desk, error) {
	if err := permission.Lock(ctx, tx); err != nil {
		return nil, err
	}
	d := &desk{s: s, tx: tx, caller: caller}
	var err error
	d.tenant, err = identity.FindTenantLimits(ctx, tx, caller.TenantID)
	switch {
	case errors.Is(err, identity.ErrNotFound):
		return nil, errNoTenant()
	case err != nil:
		return nil, err
	case d.tenant.Status != identity.StatusActive:
		return nil, errTenantInactive()
	}
	if d.book, err = rights.Read(ctx, tx, caller.TenantID); err != nil {
		return nil, err
	}
	d.own, err = d.book.Member(ctx, caller.UserID)
	return d, err
}

// invite checks what only the store knows and stores inv. roleName nil means
// the role that the settings name. The limits come last: a bulk goes on after a
// refusal, which must have counted nothing.
func (d *desk) invite(ctx context.Context, inv record, roleName *string) (made, error) {
	var err error
	if inv.roleID, err = d.grantableRole(ctx, roleName); err != nil {
		return made{}, err
	}
	if inv.handedOut {
		if err := d.mayHandOut(); err != nil {
			return made{}, err
		}
	}
	if !d.tenant.Domains.Permits(inv.emailKey) {
		return made{}, server.Invalid(problem.Field{Pointer: "/email", Code: "domain-not-allowed", Detail: "The tenant does not invite addresses of this domain."})
	}
	if member, err := isMember(ctx, d.tx, inv.tenantID, inv.emailKey); err != nil {
		return made{}, err
	} else if member {
		return made{}, errAlreadyMember()
	}
	if err := d.clearLapsed(ctx, &inv); err != nil {
		return made{}, err
	}
	if err := d.takePlace(ctx, &inv); err != nil {
		return made{}, err
	}
	m := made{}
	var hash []byte
	if inv.handedOut {
		if m.token, hash, err = newToken(d.s.config.Random); err != nil {
			return made{}, err
		}
	}
	if err := d.nameInviter(ctx, &inv); err != nil {
		return made{}, err
	}
	inv.expiresAt = d.tx.Now.Add(d.s.config.Lifetime).UnixMilli()
	if err := insert(ctx, d.tx, &inv, hash); err != nil {
		return made{}, err
	}
	if !inv.handedOut {
		if err := enqueue(ctx, d.tx, inv.id, d.caller); err != nil {
			return made{}, err
		}
	}
	detail := map[string]any{"email": inv.email, "role_id": inv.roleID}
	if err := d.s.happened(ctx, d.tx, inv.tenantID, inv.id, by(d.caller, "invitation.created", detail), nil); err != nil {
		return made{}, err
	}
	m.record, err = find(ctx, d.tx, inv.tenantID, inv.id)
	return m, err
}

// grantableRole returns the role to invite into, or a problem if there is none
// or the caller lacks a right that it carries.
func (d *desk) grantableRole(ctx context.Context, name *string) (int64, error) {
	wanted := d.s.config.Role
	if name != nil {
		wanted = *name
	}
	role := d.book.ByName(wanted)
	if role == nil {
		detail := "The tenant has no such role."
		if name == nil {
			detail = fmt.Sprintf("Name a role: the tenant has none called %q.", wanted)
		}
		return 0, server.Invalid(problem.Field{Pointer: "/role", Code: "unknown-role", Detail: detail})
	}
	return role.ID, d.mayGive(ctx, role.ID)
}

// maxMissing bounds how many rights a refusal names.
const maxMissing = 20

// mayGive returns a problem if the role carries what the caller does not hold
// in the tenant: nobody may give away more than they have.
func (d *desk) mayGive(ctx context.Context, roleID int64) error {
	carried, err := d.book.Holds(ctx, roleID)
	if err != nil {
		return err
	}
	missing := d.own.Lacks(carried)
	if len(missing) == 0 {
		return nil
	}
	e := problem.New(http.StatusForbidden, "role-exceeds-yours", "The role carries permissions that you do not have.")
	e.Extra = map[string]any{"missing": missing[:min(len(missing), maxMissing)]}
	return e
}

// readToken is the action of the feature invitations that a caller needs to be
// given a token. Who holds a token can join in place of the person invited.
const readToken = "read_token"

// mayHandOut returns a problem if the caller may not be given a token.
func (d *desk) mayHandOut() error {
	needed := permission.Pattern{Product: d.s.config.Product, Feature: "invitations", Action: readToken}
	if d.own.MayGive(needed) {
		return nil
	}
	e := problem.New(http.StatusForbidden, "permission-denied", "You may not be given the token of an invitation.")
	e.Extra = map[string]any{"permission": needed.String()}
	return e
}

// mayHandOut returns a problem if the caller may not be given the token of the
// pending invitation id: it must be one that they could make.
func (s *Service) mayHandOut(ctx context.Context, tx *database.Tx, caller server.Caller, id string) error {
	d, err := s.openDesk(ctx, tx, caller)
	if err != nil {
		return err
	}
	if err := d.mayHandOut(); err != nil {
		return err
	}
	inv, err := stillPending(ctx, tx, caller.TenantID, id)
	if err != nil || inv.roleID == 0 {
		return err
	}
	return d.mayGive(ctx, inv.roleID)
}

// clearLapsed makes the expiry of the address's last invitation durable, and
// returns a problem if that is still pending.
func (d *desk) clearLapsed(ctx context.Context, inv *record) error {
	lapsed, err := expireLapsed(ctx, d.tx, inv.tenantID, inv.emailKey)
	if err != nil {
		return err
	}
	if lapsed != "" {
		if err := d.s.happened(ctx, d.tx, inv.tenantID, lapsed, by(d.caller, "invitation.expired", nil), nil); err != nil {
			return err
		}
	}
	pending, err := findPending(ctx, d.tx, inv.tenantID, inv.emailKey)
	if errors.Is(err, identity.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return errAlreadyPending(pending)
}

// takePlace returns a problem if the tenant has no room for one more, or a
// limit stands in the way; else it counts the invitation.
func (d *desk) takePlace(ctx context.Context, inv *record) error {
	pending, err := countPending(ctx, d.tx, inv.tenantID)
	if err != nil {
		return err
	}
	if limit := int64(d.s.config.Limits.Pending); limit > 0 && pending >= limit {
		e := problem.New(http.StatusTooManyRequests, "too-many-pending", fmt.Sprintf("%d invitations are pending: cancel some first.", limit))
		return e
	}
	if d.tenant.Seats > 0 {
		members, err := identity.CountMembers(ctx, d.tx, inv.tenantID)
		if err != nil {
			return err
		}
		if members+pending >= d.tenant.Seats {
			return errSeatsFull(d.tenant.Seats)
		}
	}
	return d.s.takeInvitation(ctx, d.tx, inv.tenantID, d.caller.UserID)
}

// nameInviter keeps the inviter's name beside the id, because users go. A
// caller whom only an identity provider knows has no row to point at.
func (d *desk) nameInviter(ctx context.Context, inv *record) error {
	user, err := identity.FindUser(ctx, d.tx, inv.inviterID)
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
