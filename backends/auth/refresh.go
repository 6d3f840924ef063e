package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// errRefreshToken is the one answer to a refresh token that is not good: it
// does not say whether it is unknown, old, used or revoked.
func errRefreshToken() error {
	return unauthorized("invalid-refresh-token", "The refresh token is not valid: log in again.")
}

// decodeRefreshToken reads the body of a request that is about a refresh token
// and nothing else.
func decodeRefreshToken(r *http.Request) (secret.String, error) {
	var in struct {
		RefreshToken secret.String `json:"refresh_token"`
	}
	if err := server.Decode(r, &in); err != nil {
		return "", err
	}
	if in.RefreshToken == "" {
		return "", server.Invalid(required("/refresh_token"))
	}
	return in.RefreshToken, nil
}

// refresh answers POST /api/auth/refresh with a new pair of tokens.
func (s *Service) refresh(w http.ResponseWriter, r *http.Request) error {
	token, err := decodeRefreshToken(r)
	if err != nil {
		return err
	}
	body, err := s.rotate(r, token, rotation{})
	if err != nil {
		return err
	}
	return server.WriteJSON(w, http.StatusOK, body)
}

// switchTenant answers POST /api/auth/switch-tenant: it is a refresh that moves
// the session to another of the caller's tenants. It wants the refresh token
// because an access token alone, which lives for minutes, must not be good for
// making another one.
func (s *Service) switchTenant(w http.ResponseWriter, r *http.Request) error {
	caller, err := server.CallerOf(r)
	if err != nil {
		return err
	}
	var in struct {
		Tenant       json.RawMessage `json:"tenant"`
		RefreshToken secret.String   `json:"refresh_token"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	ref, ok := parseTenant(in.Tenant)
	var fields []problem.Field
	switch {
	case !ok:
		fields = append(fields, invalidTenant())
	case ref == "":
		fields = append(fields, required("/tenant"))
	}
	if in.RefreshToken == "" {
		fields = append(fields, required("/refresh_token"))
	}
	if fields != nil {
		return server.Invalid(fields...)
	}
	body, err := s.rotate(r, in.RefreshToken, rotation{tenant: ref, userID: caller.UserID})
	if err != nil {
		return err
	}
	return server.WriteJSON(w, http.StatusOK, body)
}

// rotation is what a refresh shall change besides the token.
type rotation struct {
	// tenant is where the session goes, empty to stay.
	tenant string
	// userID is whose session it must be, empty for anybody's.
	userID string
}

// rotate uses a refresh token up and returns the tokens that follow it.
func (s *Service) rotate(r *http.Request, presented secret.String, how rotation) (tokenBody, error) {
	ctx := r.Context()
	hash, ok := parseRefreshToken(presented)
	if !ok {
		return tokenBody{}, errRefreshToken()
	}
	// A made-up token must not cost the store's only writer.
	if _, _, err := findToken(ctx, s.config.DB.Reader(), hash); errors.Is(err, identity.ErrNotFound) {
		return tokenBody{}, errRefreshToken()
	} else if err != nil {
		return tokenBody{}, err
	}
	next, nextHash := newRefreshToken()
	var alive session
	var membership identity.Membership
	var refusal error // committed: the refusal itself changes the store
	err := s.config.DB.InTx(ctx, func(tx *database.Tx) (err error) {
		alive, membership, refusal, err = s.useUp(r, tx, hash, how)
		if err != nil || refusal != nil {
			return err
		}
		return addToken(ctx, tx, alive, nextHash, s.config.RefreshTTL)
	})
	if err == nil {
		err = refusal
	}
	if err != nil {
		return tokenBody{}, fmt.Errorf("refresh: %w", err)
	}
	return s.tokens(alive.user, membership, alive.id, next)
}

// useUp marks a token as used and returns its session, moved to another tenant
// if it shall be. A refusal is returned beside err because what it did to the
// store must be committed; err rolls everything back, the use of the token too.
func (s *Service) useUp(r *http.Request, tx *database.Tx, hash []byte, how rotation) (alive session, in identity.Membership, refusal, err error) {
	ctx := r.Context()
	sessionID, _, err := findToken(ctx, tx, hash)
	if errors.Is(err, identity.ErrNotFound) { // purged a moment ago
		return alive, in, errRefreshToken(), nil
	}
	if err != nil {
		return alive, in, nil, err
	}
	ok, err := useToken(ctx, tx, hash)
	if err != nil {
		return alive, in, nil, err
	}
	if !ok {
		return alive, in, errRefreshToken(), s.reused(r, tx, hash)
	}
	alive, err = findSession(ctx, tx, sessionID)
	if errors.Is(err, identity.ErrNotFound) {
		return alive, in, errRefreshToken(), nil
	}
	if err != nil {
		return alive, in, nil, err
	}
	if how.userID != "" && how.userID != alive.user.ID {
		return alive, in, nil, errRefreshToken() // rolled back: somebody else's token is not ours to use up
	}
	memberships, err := identity.Memberships(ctx, tx, alive.user.ID)
	if err != nil {
		return alive, in, nil, err
	}
	ref := how.tenant
	if ref == "" {
		ref = strconv.FormatInt(alive.tenantID, 10)
	}
	in, ok = choose(memberships, ref)
	switch {
	case alive.user.Status != identity.StatusActive, !ok && how.tenant == "":
		return alive, in, errRefreshToken(), s.revoke(r, tx, "session.ended", sessionID)
	case !ok:
		return alive, in, nil, problem.New(http.StatusNotFound, "tenant-unknown", "You are in no such tenant.")
	case how.tenant == "":
		return alive, in, nil, nil
	}
	if err := moveSession(ctx, tx, sessionID, in.TenantID); err != nil {
		return alive, in, nil, err
	}
	return alive, in, nil, audit(r, tx, "session.moved", sessionID, alive.user.ID, in.TenantID)
}

// reused ends the session of a token that came a second time. A token that
// merely got too old is no reason.
func (s *Service) reused(r *http.Request, tx *database.Tx, hash []byte) error {
	sessionID, used, err := findToken(r.Context(), tx, hash)
	if err != nil || !used {
		return err
	}
	server.Logger(r.Context()).Warn("refresh token used twice, session revoked", zap.String("session_id", sessionID))
	return s.revoke(r, tx, "session.reuse", sessionID)
}

// revoke ends a session and records why, once.
func (s *Service) revoke(r *http.Request, tx *database.Tx, action, sessionID string) error {
	ok, err := endSession(r.Context(), tx, sessionID)
	if err != nil || !ok {
		return err
	}
	owner, tenantID, err := sessionOwner(r.Context(), tx, sessionID)
	if err != nil {
		return err
	}
	return audit(r, tx, action, sessionID, owner, tenantID)
}

// logout answers POST /api/auth/logout: it ends the session of a refresh token,
// a used one too. As RFC 7009 section 2.2 has it, the answer to a token that is
// not known is the same.
func (s *Service) logout(w http.ResponseWriter, r *http.Request) error {
	token, err := decodeRefreshToken(r)
	if err != nil {
		return err
	}
	if hash, ok := parseRefreshToken(token); ok {
		if err := s.endSessionOf(r, hash); err != nil {
			return fmt.Errorf("logout: %w", err)
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) endSessionOf(r *http.Request, hash []byte) error {
	sessionID, _, err := findToken(r.Context(), s.config.DB.Reader(), hash)
	if errors.Is(err, identity.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.config.DB.InTx(r.Context(), func(tx *database.Tx) error {
		return s.revoke(r, tx, "session.logout", sessionID)
	})
}
