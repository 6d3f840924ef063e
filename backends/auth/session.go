package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// A session is one login: a family of refresh tokens of which only the newest
// is good for anything. A token that comes a second time was copied by
// somebody, and nobody can say by whom, so it ends the session (RFC 9700
// section 4.14.2). Only the SHA-256 of a token is stored: it has 256 random
// bits, so a slow hash would add nothing.
const (
	refreshPrefix = "rt_" // for secret scanners
	refreshBytes  = 32
)

// newRefreshToken returns a token and what is stored of it.
func newRefreshToken() (token string, hash []byte) {
	raw := make([]byte, refreshBytes)
	_, _ = rand.Read(raw) // never fails since Go 1.24
	token = refreshPrefix + base64.RawURLEncoding.EncodeToString(raw)
	return token, hashToken(token)
}

func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// parseRefreshToken returns the hash of a token, or false if it can't be one
// of ours.
func parseRefreshToken(token secret.String) ([]byte, bool) {
	encoded, ok := strings.CutPrefix(token.Reveal(), refreshPrefix)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(refreshBytes) {
		return nil, false
	}
	if _, err := base64.RawURLEncoding.Strict().DecodeString(encoded); err != nil {
		return nil, false
	}
	return hashToken(token.Reveal()), true
}

// session is a row of sessions with its user.
type session struct {
	id        string
	user      identity.User
	tenantID  int64
	expiresAt int64
}

const insertSession = `INSERT INTO sessions (id, user_id, tenant_id, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)`

// startSession stores a session that begins now.
func startSession(ctx context.Context, tx *database.Tx, userID string, tenantID int64, life time.Duration) (session, error) {
	started := session{id: identity.NewID(), tenantID: tenantID, expiresAt: tx.NowMS() + life.Milliseconds()}
	if _, err := tx.ExecContext(ctx, insertSession, started.id, userID, tenantID, tx.NowMS(), started.expiresAt); err != nil {
		return session{}, fmt.Errorf("start session: %w", err)
	}
	return started, nil
}

const insertRefresh = `INSERT INTO refresh_tokens (token_hash, session_id, created_at, expires_at) VALUES ($1, $2, $3, $4)`

// addToken stores the next refresh token of a session. It never outlives the session.
func addToken(ctx context.Context, tx *database.Tx, of session, hash []byte, life time.Duration) error {
	expires := min(tx.NowMS()+life.Milliseconds(), of.expiresAt)
	if _, err := tx.ExecContext(ctx, insertRefresh, hash, of.id, tx.NowMS(), expires); err != nil {
		return fmt.Errorf("store refresh token: %w", err)
	}
	return nil
}

const selectToken = `SELECT session_id, used_at IS NOT NULL FROM refresh_tokens WHERE token_hash = $1`

// findToken returns the session of a refresh token and whether the token was
// used, or identity.ErrNotFound.
func findToken(ctx context.Context, q identity.Queryer, hash []byte) (sessionID string, used bool, err error) {
	err = q.QueryRowContext(ctx, selectToken, hash).Scan(&sessionID, &used)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, identity.ErrNotFound
	}
	if err != nil {
		return "", false, fmt.Errorf("read refresh token: %w", err)
	}
	return sessionID, used, nil
}

const useRefreshToken = `UPDATE refresh_tokens SET used_at = $1 WHERE token_hash = $2 AND used_at IS NULL AND expires_at > $1`

// useToken uses a refresh token up. Of any number of callers it returns true to
// one at most: the guard stands in the statement that changes the row.
func useToken(ctx context.Context, tx *database.Tx, hash []byte) (bool, error) {
	return changed(tx.ExecContext(ctx, useRefreshToken, tx.NowMS(), hash))
}

const revokeSession = `UPDATE sessions SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL`

// endSession revokes a session with all its tokens. It returns false if that
// was done before.
func endSession(ctx context.Context, tx *database.Tx, id string) (bool, error) {
	return changed(tx.ExecContext(ctx, revokeSession, tx.NowMS(), id))
}

const selectSession = `SELECT s.id, s.tenant_id, s.expires_at, u.id, u.email, u.name, u.status
	FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > $2`

// findSession returns a session that is alive, or identity.ErrNotFound.
func findSession(ctx context.Context, tx *database.Tx, id string) (session, error) {
	var found session
	var tenantID sql.NullInt64
	err := tx.QueryRowContext(ctx, selectSession, id, tx.NowMS()).
		Scan(&found.id, &tenantID, &found.expiresAt, &found.user.ID, &found.user.Email, &found.user.Name, &found.user.Status)
	if errors.Is(err, sql.ErrNoRows) {
		return session{}, identity.ErrNotFound
	}
	if err != nil {
		return session{}, fmt.Errorf("read session: %w", err)
	}
	found.tenantID = tenantID.Int64
	return found, nil
}

const selectSessionOwner = `SELECT user_id, COALESCE(tenant_id, 0) FROM sessions WHERE id = $1`

// sessionOwner returns whose session it is and in which tenant, alive or not.
func sessionOwner(ctx context.Context, tx *database.Tx, id string) (userID string, tenantID int64, err error) {
	if err := tx.QueryRowContext(ctx, selectSessionOwner, id).Scan(&userID, &tenantID); err != nil {
		return "", 0, fmt.Errorf("read session: %w", err)
	}
	return userID, tenantID, nil
}

const updateSessionTenant = `UPDATE sessions SET tenant_id = $1 WHERE id = $2 AND revoked_at IS NULL`

// moveSession makes a session one of another tenant.
func moveSession(ctx context.Context, tx *database.Tx, id string, tenantID int64) error {
	if _, err := tx.ExecContext(ctx, updateSessionTenant, tenantID, id); err != nil {
		return fmt.Errorf("move session: %w", err)
	}
	return nil
}

const deleteEndedSessions = `DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)`

// purgeSessions deletes sessions that nobody can use any more, with their
// tokens, in batches, so that none holds the store's writer for long. Revoked
// ones stay until their end: their tokens must be known as used.
func (s *Service) purgeSessions(ctx context.Context) error {
	_, err := s.config.DB.InBatches(ctx, func(tx *database.Tx, limit int) (int, error) {
		result, err := tx.ExecContext(ctx, deleteEndedSessions, tx.NowMS(), limit)
		if err != nil {
			return 0, fmt.Errorf("delete ended sessions: %w", err)
		}
		n, err := result.RowsAffected()
		return int(n), err
	})
	return err
}

// changed reports whether a statement changed a row.
func changed(result sql.Result, err error) (bool, error) {
	if err != nil {
		return false, fmt.Errorf("update: %w", err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("update: %w", err)
	}
	return n > 0, nil
}
