package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// parseTenant reads the "tenant" of a request body: the tenant's id (a number,
// or the same in a string) or its name. Nothing and null are "".
func parseTenant(raw json.RawMessage) (ref string, ok bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", true
	}
	if raw[0] == '"' {
		err := json.Unmarshal(raw, &ref)
		return ref, err == nil && ref != ""
	}
	id, err := strconv.ParseInt(string(raw), 10, 64)
	return strconv.FormatInt(id, 10), err == nil && id > 0
}

func invalidTenant() problem.Field {
	return problem.Field{Pointer: "/tenant", Code: "invalid", Detail: "Give the tenant's id or its name."}
}

// login answers POST /api/auth/login. A wrong password, an unknown or disabled
// user, a user without a tenant and a tenant that is not the user's get one
// and the same answer after the same work.
func (s *Service) login(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Email    string          `json:"email"`
		Password secret.String   `json:"password"`
		Tenant   json.RawMessage `json:"tenant"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	ref, ok := parseTenant(in.Tenant)
	var fields []problem.Field
	if in.Email == "" {
		fields = append(fields, required("/email"))
	}
	if in.Password == "" {
		fields = append(fields, required("/password"))
	}
	if !ok {
		fields = append(fields, invalidTenant())
	}
	if fields != nil {
		return server.Invalid(fields...)
	}

	key, err := identity.EmailKey(in.Email)
	if err != nil {
		key = "" // an address that nobody has is one more unknown user
	}
	refund, err := s.throttle(server.ClientIP(r), key)
	if err != nil {
		return err
	}
	user, membership, err := s.authenticate(r.Context(), key, in.Password, ref)
	if err != nil {
		return err
	}
	refund()
	body, err := s.openSession(r, user, membership)
	if err != nil {
		return err
	}
	return server.WriteJSON(w, http.StatusOK, body)
}

// throttle counts an attempt, for the address and for the account, and returns
// a function that takes it back. It returns a 429 problem, the same whether the
// account exists or not, if there were too many.
func (s *Service) throttle(ip, emailKey string) (refund func(), err error) {
	address := addressKey(ip)
	wait := s.addresses.take(address)
	if wait == 0 && emailKey != "" {
		wait = s.accounts.take(emailKey)
	}
	if wait > 0 {
		e := problem.New(http.StatusTooManyRequests, "too-many-attempts", "Too many failed logins: wait before the next attempt.")
		e.Header = http.Header{"Retry-After": {strconv.Itoa(int(math.Ceil(wait.Seconds())))}}
		return nil, e
	}
	return func() {
		s.addresses.refund(address)
		if emailKey != "" {
			s.accounts.refund(emailKey)
		}
	}, nil
}

// authenticate returns the user with the given address and password, and the
// membership to log in to. Every refusal is the same 401 problem.
func (s *Service) authenticate(ctx context.Context, key string, pw secret.String, ref string) (identity.User, identity.Membership, error) {
	refuse := func(reason, userID string) (identity.User, identity.Membership, error) {
		server.Logger(ctx).Info("login refused", zap.String("reason", reason), zap.String("user_id", userID))
		return identity.User{}, identity.Membership{}, unauthorized("invalid-credentials", "The e-mail address or the password is wrong.")
	}
	reader := s.config.DB.Reader()
	user, err := identity.FindUserByEmailKey(ctx, reader, key)
	if err != nil && !errors.Is(err, identity.ErrNotFound) {
		return identity.User{}, identity.Membership{}, err
	}
	// For an unknown user the hash is empty: Verify takes its time all the same.
	ok, stale, err := s.config.Passwords.Verify(ctx, user.PasswordHash, pw.Reveal())
	switch {
	case err != nil:
		return identity.User{}, identity.Membership{}, fmt.Errorf("verify password: %w", err)
	case user.ID == "":
		return refuse("unknown user", "")
	case !ok:
		return refuse("wrong password", user.ID)
	case user.Status != identity.StatusActive:
		return refuse("user is "+user.Status, user.ID)
	}
	memberships, err := identity.Memberships(ctx, reader, user.ID)
	if err != nil {
		return identity.User{}, identity.Membership{}, err
	}
	membership, found := choose(memberships, ref)
	if !found {
		return refuse("no such membership", user.ID)
	}
	if stale {
		s.rehash(ctx, user, pw)
	}
	return user, membership, nil
}

const replaceHash = `UPDATE users SET password_hash = $1, updated_at = $2 WHERE id = $3 AND password_hash = $4`

// rehash stores the hash of a password with today's parameters, unless the
// password was changed meanwhile. The login does not depend on it.
func (s *Service) rehash(ctx context.Context, user identity.User, pw secret.String) {
	phc, err := s.config.Passwords.Hash(ctx, pw.Reveal())
	if err == nil {
		err = s.config.DB.InTx(ctx, func(tx *database.Tx) error {
			_, err := tx.ExecContext(ctx, replaceHash, phc, tx.NowMS(), user.ID, user.PasswordHash)
			return err
		})
	}
	if err != nil {
		server.Logger(ctx).Warn("password not hashed again", zap.String("user_id", user.ID), zap.Error(err))
	}
}

// openSession starts a session and returns its first tokens.
func (s *Service) openSession(r *http.Request, user identity.User, in identity.Membership) (tokenBody, error) {
	ctx := r.Context()
	token, hash := newRefreshToken()
	var started session
	err := s.config.DB.InTx(ctx, func(tx *database.Tx) (err error) {
		if started, err = startSession(ctx, tx, user.ID, in.TenantID, s.config.SessionTTL); err != nil {
			return err
		}
		if err := addToken(ctx, tx, started, hash, s.config.RefreshTTL); err != nil {
			return err
		}
		return audit(r, tx, "session.started", started.id, user.ID, in.TenantID)
	})
	if err != nil {
		return tokenBody{}, fmt.Errorf("login: %w", err)
	}
	return s.tokens(user, in, started.id, token)
}

// me answers GET /api/auth/me with the caller's account and tenants.
func (s *Service) me(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.CallerOf(r)
	if err != nil {
		return err
	}
	user, err := identity.FindUser(r.Context(), s.config.DB.Reader(), caller.UserID)
	if errors.Is(err, identity.ErrNotFound) {
		return problem.New(http.StatusNotFound, "user-unknown", "This installation has no account for you: your tokens come from somewhere else.")
	}
	if err != nil {
		return err
	}
	memberships, err := identity.Memberships(r.Context(), s.config.DB.Reader(), user.ID)
	if err != nil {
		return err
	}
	type tenant struct {
		tenantBody
		Status string `json:"status"`
		Role   string `json:"role"`
	}
	body := struct {
		User    userBody    `json:"user"`
		Tenant  *tenantBody `json:"tenant"` // null if the membership ended after the token was made
		Roles   []string    `json:"roles"`
		Tenants []tenant    `json:"tenants"`
	}{User: newUserBody(user), Roles: []string{}, Tenants: []tenant{}}
	for _, m := range memberships {
		t := tenantBody{ID: m.TenantID, Name: m.TenantName}
		body.Tenants = append(body.Tenants, tenant{tenantBody: t, Status: m.TenantStatus, Role: m.RoleName})
		if m.TenantID == caller.TenantID {
			body.Tenant, body.Roles = &t, []string{m.RoleName}
		}
	}
	return server.WriteJSON(w, http.StatusOK, body)
}

// unauthorized returns a 401 problem with the header that RFC 9110 section
// 11.6.1 requires.
func unauthorized(code, detail string) error {
	e := problem.New(http.StatusUnauthorized, code, detail)
	e.Header = http.Header{"Www-Authenticate": {"Bearer"}}
	return e
}

// audit records what happened to a session.
func audit(r *http.Request, tx *database.Tx, action, sessionID, userID string, tenantID int64) error {
	return identity.RecordAudit(r.Context(), tx, identity.AuditEvent{
		TenantID: tenantID, ActorID: userID, Action: action, Target: "session/" + sessionID,
		RequestIP: server.ClientIP(r), TraceID: server.Trace(r.Context()).TraceID,
	})
}
