package invitation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// acceptBody is the body of POST /api/invitations/accept/.
type acceptBody struct {
	Token    secret.String `json:"token"`
	Password secret.String `json:"password"`
	Name     string        `json:"name"`
}

// acceptView is the answer to an accepted invitation.
type acceptView struct {
	User       acceptedUser       `json:"user"`
	Invitation acceptedInvitation `json:"invitation"`
}

// acceptedUser is who joined. New says whether the account was made just now.
type acceptedUser struct {
	ID     string    `json:"id"`
	Email  string    `json:"email"`
	Name   string    `json:"name"`
	New    bool      `json:"new"`
	Tenant tenantRef `json:"tenant"`
}

// acceptedInvitation is how the invitation ended.
type acceptedInvitation struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

// errChanged says that the store is no longer what the password was checked
// against: the answer must be worked out again.
var errChanged = errors.New("changed in the meantime")

// maxAcceptTries bounds how often an accept starts over. Each retry needs
// another change of the same invitation or account in the few milliseconds
// since the last look.
const maxAcceptTries = 4

// accept answers POST /api/invitations/accept/, which needs no login: the
// token is the proof. Each step is cheaper than the next, and nothing is hashed
// for a token that is not live.
func (s *Service) accept(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	var body acceptBody
	if err := server.Decode(r, &body); err != nil {
		return err
	}
	if fields := checkText("/name", body.Name, maxName); len(fields) > 0 {
		return server.Invalid(fields...)
	}
	hash, err := s.takeToken(r, body.Token)
	if err != nil {
		return err
	}
	for range maxAcceptTries {
		accepted, err := s.tryAccept(r, hash, &body)
		if errors.Is(err, errChanged) {
			continue
		}
		if err != nil {
			return err
		}
		return server.WriteJSON(w, http.StatusCreated, accepted)
	}
	return errors.New("accept invitation: it changed at every try")
}

// takeToken returns the hash of a token that a client may try, or the problem
// that it is none or that its address tries too many.
func (s *Service) takeToken(r *http.Request, token secret.String) ([]byte, error) {
	hash, ok := parseToken(token.Reveal())
	if wait := s.callers.take(addressKey(server.ClientIP(r)), s.config.Clock.Now()); wait > 0 {
		return nil, tooMany("too-many-attempts", "Too many invitations were tried from your address.", wait)
	}
	if !ok {
		return nil, errUnknownToken()
	}
	return hash, nil
}

// tryAccept looks, checks or makes the account, and commits; it returns
// errChanged if the commit found something else than the look.
func (s *Service) tryAccept(r *http.Request, tokenHash []byte, body *acceptBody) (*acceptView, error) {
	ctx := r.Context()
	inv, account, err := s.examine(ctx, tokenHash)
	if err != nil {
		return nil, err
	}
	user := account
	if account.ID == "" {
		user, err = s.newUser(ctx, &inv, body)
	} else {
		err = s.verify(r, &inv, account, body.Password)
	}
	if err != nil {
		return nil, err
	}
	err = s.inTx(ctx, func(tx *database.Tx) error {
		return s.commitAccept(ctx, tx, r, tokenHash, account, user)
	})
	if errors.Is(err, database.ErrConflict) {
		err = errChanged // the address got an account, or a membership, just now
	}
	if err != nil {
		return nil, err
	}
	server.Logger(ctx).Info("invitation accepted", zap.String("invitation_id", inv.id), zap.String("user_id", user.ID),
		zap.Int64("tenant_id", inv.tenantID), zap.Bool("new_user", account.ID == ""))
	return &acceptView{
		User:       acceptedUser{user.ID, user.Email, user.Name, account.ID == "", tenantRef{inv.tenantID, inv.tenantName}},
		Invitation: acceptedInvitation{inv.id, statusAccepted},
	}, nil
}

// examine returns the live invitation of a token and the account of its
// address, the zero User if there is none, or the problem that stands in the
// way. It reads one state of the store: the second of two clicks must not meet
// its own membership on a pending invitation.
func (s *Service) examine(ctx context.Context, tokenHash []byte) (record, identity.User, error) {
	tx, err := s.config.DB.BeginRead(ctx)
	if err != nil {
		return record{}, identity.User{}, fmt.Errorf("examine invitation: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	inv, err := findByToken(ctx, tx, tokenHash)
	if errors.Is(err, identity.ErrNotFound) {
		return record{}, identity.User{}, errUnknownToken()
	}
	if err != nil {
		return record{}, identity.User{}, err
	}
	if status := inv.effective(s.nowMS()); status != statusPending {
		return record{}, identity.User{}, errDead(status)
	}
	account, err := s.mayJoin(ctx, tx, &inv)
	return inv, account, err
}

// mayJoin returns the account of the invited address, or the problem that
// keeps it from joining although the invitation is live: what held when it was
// made must hold still.
func (s *Service) mayJoin(ctx context.Context, q identity.Queryer, inv *record) (identity.User, error) {
	if err := s.stillGood(ctx, q, inv); err != nil {
		return identity.User{}, err
	}
	account, err := identity.FindUserByEmailKey(ctx, q, inv.emailKey)
	if errors.Is(err, identity.ErrNotFound) {
		return identity.User{}, nil
	}
	if err != nil {
		return identity.User{}, err
	}
	switch {
	case account.Status != identity.StatusActive:
		return identity.User{}, problem.New(http.StatusConflict, "account-disabled", "The account of this address is disabled.")
	case account.PasswordHash == "":
		return identity.User{}, problem.New(http.StatusConflict, "account-without-password", "The account of this address logs in elsewhere and has no password here.")
	}
	return account, nil
}

// stillGood returns a problem if the tenant, the role or the inviter is no
// longer what the invitation needs, or the address needs none any more. It looks
// at nothing that the inviter may not know, such as accounts.
func (s *Service) stillGood(ctx context.Context, q identity.Queryer, inv *record) error {
	tenant, err := identity.FindTenantLimits(ctx, q, inv.tenantID)
	if err != nil {
		return err
	}
	switch {
	case tenant.Status != identity.StatusActive:
		return errTenantInactive()
	case inv.roleID == 0:
		return problem.New(http.StatusConflict, "role-gone", "The role of this invitation was deleted: another invitation is needed.")
	case !tenant.Domains.Permits(inv.emailKey):
		return problem.New(http.StatusConflict, "domain-not-allowed", "The tenant takes no members with an address of this domain.")
	}
	if tenant.Seats > 0 {
		members, err := identity.CountMembers(ctx, q, inv.tenantID)
		if err != nil {
			return err
		}
		if members >= tenant.Seats {
			return problem.New(http.StatusConflict, "seats-full", "All seats of the tenant are taken.")
		}
	}
	if err := s.inviterMay(ctx, q, inv); err != nil {
		return err
	}
	member, err := isMember(ctx, q, inv.tenantID, inv.emailKey)
	if err != nil {
		return err
	}
	if member {
		return errAlreadyMember()
	}
	return nil
}

// inviterMay returns a problem if the inviter could no longer make the
// invitation: they left, were disabled, or lost a right that its role carries.
// Whom only an identity provider knows has no rights here that could be lost.
func (s *Service) inviterMay(ctx context.Context, q identity.Queryer, inv *record) error {
	if s.config.TrustInviters || inv.inviterID == "" {
		return nil
	}
	gone := problem.New(http.StatusConflict, "inviter-not-allowed", "Who made this invitation may no longer do that: another one is needed.")
	inviter, err := identity.FindUser(ctx, q, inv.inviterID)
	if err != nil {
		return err
	}
	if inviter.Status != identity.StatusActive {
		return gone
	}
	book, err := rights.Read(ctx, q, inv.tenantID)
	if err != nil {
		return err
	}
	own, err := book.Member(ctx, inv.inviterID)
	if err != nil {
		return err
	}
	carried, err := book.Holds(ctx, inv.roleID)
	if err != nil {
		return err
	}
	if !own.MayGive(permission.Pattern{Product: s.config.Product, Feature: "invitations", Action: "write"}) || len(own.Lacks(carried)) > 0 {
		return gone
	}
	return nil
}

// newUser returns the user that the invitation makes, or a problem if the
// password is weak. Nothing is stored yet and the token stays alive.
func (s *Service) newUser(ctx context.Context, inv *record, body *acceptBody) (identity.User, error) {
	local, _, _ := strings.Cut(inv.email, "@")
	if weak := s.config.Passwords.Check(body.Password.Reveal(), local, inv.tenantName, s.config.Product); weak != nil {
		return identity.User{}, server.Invalid(problem.Field{Pointer: "/password", Code: weak.Code, Detail: weak.Detail})
	}
	hash, err := s.config.Hasher.Hash(ctx, body.Password.Reveal())
	if err != nil {
		return identity.User{}, err
	}
	name := body.Name
	if name == "" {
		name = inv.name
	}
	return identity.User{
		ID: identity.NewID(), Email: inv.email, EmailKey: inv.emailKey, Name: name, PasswordHash: hash, Status: identity.StatusActive,
	}, nil
}

// verify returns a problem unless the password is the one that the existing
// account has. It is never overwritten: whoever reads a mailbox must not take
// over an account by an invitation. A wrong one leaves an audit row.
func (s *Service) verify(r *http.Request, inv *record, account identity.User, password secret.String) error {
	if password == "" {
		return errWrongPassword()
	}
	if wait := s.guesses.take(account.EmailKey, s.config.Clock.Now()); wait > 0 {
		return tooMany("too-many-attempts", "Too many wrong passwords for this account.", wait)
	}
	ctx := r.Context()
	ok, _, err := s.config.Hasher.Verify(ctx, account.PasswordHash, password.Reveal())
	if err != nil {
		return err
	}
	if ok {
		s.guesses.forget(account.EmailKey)
		return nil
	}
	server.Logger(ctx).Warn("wrong password for an invitation", zap.String("invitation_id", inv.id), zap.String("user_id", account.ID))
	event := identity.AuditEvent{
		ActorID: unknownActor, Action: "invitation.accept_failed", Detail: map[string]any{"reason": "wrong-password", "user_id": account.ID},
		RequestIP: server.ClientIP(r), TraceID: server.Trace(ctx).TraceID,
	}
	err = s.inTx(ctx, func(tx *database.Tx) error { return s.happened(ctx, tx, inv.tenantID, inv.id, event, nil) })
	if err != nil {
		return err
	}
	return errWrongPassword()
}

// commitAccept is the whole acceptance in one transaction. The guarded UPDATE
// decides: who loses it changes nothing. The lock of the permission table comes
// before, as everywhere, and keeps role, tenant and memberships as they are.
func (s *Service) commitAccept(ctx context.Context, tx *database.Tx, r *http.Request, tokenHash []byte, seen, user identity.User) error {
	if err := permission.Lock(ctx, tx); err != nil {
		return err
	}
	won, err := markAccepted(ctx, tx, tokenHash, user.ID)
	if err != nil {
		return err
	}
	if !won {
		return errChanged
	}
	inv, err := findByToken(ctx, tx, tokenHash)
	if err != nil {
		return err
	}
	account, err := s.mayJoin(ctx, tx, &inv)
	if err != nil {
		return err
	}
	if account != seen {
		return errChanged // made, disabled or given another password since it was checked
	}
	if account.ID == "" {
		if err := identity.InsertUser(ctx, tx, user); err != nil {
			return err
		}
	}
	if err := identity.InsertMembership(ctx, tx, inv.tenantID, user.ID, inv.roleID); err != nil {
		return err
	}
	if err := permission.TouchMember(ctx, tx, inv.tenantID, user.ID); err != nil {
		return err
	}
	event := identity.AuditEvent{
		ActorID: user.ID, Action: "invitation.accepted", Detail: map[string]any{"role_id": inv.roleID, "new_user": account.ID == ""},
		RequestIP: server.ClientIP(r), TraceID: server.Trace(ctx).TraceID,
	}
	return s.happened(ctx, tx, inv.tenantID, inv.id, event, map[string]any{"user_id": user.ID, "new_user": account.ID == ""})
}

func errUnknownToken() error {
	return problem.New(http.StatusNotFound, "invitation-unknown", "This invitation link is not valid. If you got a newer mail, use the link in that one.")
}

func errWrongPassword() error {
	return server.Invalid(problem.Field{
		Pointer: "/password", Code: "wrong-password",
		Detail: "This address has an account already: give that account's password to join with it.",
	})
}

// errDead says why a token that was once good no longer is. Only who holds it
// can ask, so the reason gives nothing away.
func errDead(status string) error {
	detail := map[string]string{
		statusAccepted:  "This invitation was accepted already: log in instead.",
		statusCancelled: "This invitation was cancelled.",
		statusExpired:   "This invitation has expired: ask for another one.",
	}[status]
	e := problem.New(http.StatusGone, "invitation-"+status, detail)
	e.Extra = map[string]any{"reason": status}
	return e
}
