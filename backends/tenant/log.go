package tenant

import (
	"net/http"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
)

// logEvent answers GET and POST /api/tenant/log/?tenant_id=&user_id=. It logs a
// line and returns the trace id that the line carries. It reads and changes
// nothing. The ids in the query are what the line is about, never an identity:
// they are logged as about_tenant_id and about_user_id.
func (s *Service) logEvent(w http.ResponseWriter, r *http.Request) error {
	values := r.URL.Query()
	caller, callerErr := server.CallerOf(r)
	tenantID, userID := caller.TenantID, values.Get("user_id")
	if raw := values.Get("tenant_id"); raw != "" {
		var ok bool
		if tenantID, ok = parseID(raw); !ok {
			return server.BadQuery("tenant_id", "Give the number of a tenant.")
		}
	}
	switch {
	case userID == "" && callerErr != nil:
		return server.BadQuery("user_id", "Give a user id, or a token.")
	case userID == "":
		userID = caller.UserID
	case len(userID) > maxUserID || !printable(userID):
		return server.BadQuery("user_id", "Give at most 255 bytes of printable text.")
	}
	about := []zap.Field{zap.String("about_user_id", userID)}
	body := map[string]any{"message": "logged", "service": "tenant-service", "trace_id": server.Trace(r.Context()).TraceID, "user_id": userID}
	if tenantID > 0 {
		about = append(about, zap.Int64("about_tenant_id", tenantID))
		body["tenant_id"] = tenantID
	}
	server.Logger(r.Context()).Info("tenant event", about...)
	return server.WriteJSON(w, http.StatusOK, body)
}
