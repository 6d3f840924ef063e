package auth

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// maxUserID is the longest user id in bytes (see identity.Principal).
const maxUserID = 255

// logEvent answers GET and POST /api/auth/log/?user_id=. It logs a line, has
// the tenant service log one, and returns the trace id that both lines carry.
// It reads and changes nothing. The id in the query is a subject to talk about,
// never an identity: it is logged as about_user_id.
func (s *Service) logEvent(w http.ResponseWriter, r *http.Request) error {
	userID, tenantID, err := subject(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	server.Logger(ctx).Info("auth event", zap.String("about_user_id", userID))

	query := url.Values{"user_id": {userID}}
	if tenantID > 0 {
		query.Set("tenant_id", strconv.FormatInt(tenantID, 10))
	}
	var answer json.RawMessage
	if err := s.tenant.Do(ctx, r, http.MethodGet, "/api/tenant/log/?"+query.Encode(), nil, &answer); err != nil {
		return problem.Wrap(err, http.StatusBadGateway, "tenant-service-failed", "The tenant service did not answer.")
	}
	return server.WriteJSON(w, http.StatusOK, map[string]any{
		"message": "logged", "service": "auth-service", "trace_id": server.Trace(ctx).TraceID, "user_id": userID, "tenant": answer,
	})
}

// subject returns the user that a log call is about, the caller if the query
// names none, and the caller's tenant, 0 without a caller.
func subject(r *http.Request) (userID string, tenantID int64, err error) {
	caller, callerErr := server.CallerOf(r)
	userID = r.URL.Query().Get("user_id")
	switch {
	case userID == "" && callerErr != nil:
		return "", 0, server.BadQuery("user_id", "Give a user id, or a token.")
	case userID == "":
		userID = caller.UserID
	case !validUserID(userID):
		return "", 0, server.BadQuery("user_id", "Give at most 255 bytes of printable text.")
	}
	return userID, caller.TenantID, nil
}

// validUserID keeps line breaks and invisible text out of the log.
func validUserID(s string) bool {
	if len(s) > maxUserID || !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsGraphic(c) {
			return false
		}
	}
	return true
}
